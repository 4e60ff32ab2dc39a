"""Scores of masks: hand-made cases, slow loops, and what must not change them."""

import pytest
import torch

from layered_plugin.evaluation import full_mask_iou, iou, mask_scores, mean_iou, pixel_accuracy, pooled_iou


def _random_masks(num: int = 6, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(num, size, size, generator=generator) < 0.4 for _ in range(2))


@pytest.mark.parametrize("pred, target, expected", [
    ([[1, 1], [0, 0]], [[1, 1], [0, 0]], 1.0),
    ([[1, 1], [0, 0]], [[0, 0], [1, 1]], 0.0),
    ([[1, 1], [0, 0]], [[1, 0], [1, 0]], 1 / 3),
    ([[1, 1], [1, 1]], [[1, 0], [0, 0]], 1 / 4),
    ([[0, 0], [0, 0]], [[0, 0], [0, 0]], 1.0),
    ([[1, 0], [0, 0]], [[0, 0], [0, 0]], 0.0),
    ([[0, 0], [0, 0]], [[1, 0], [0, 0]], 0.0),
])
def test_iou_of_hand_made_masks(pred: list, target: list, expected: float) -> None:
    assert iou(torch.tensor([pred]).bool(), torch.tensor([target]).bool()).tolist() == [pytest.approx(expected)]


def test_scores_match_slow_loops() -> None:
    pred, target = _random_masks()
    per_picture, both_sum, any_sum, right = [], 0, 0, 0
    for n in range(len(pred)):
        pairs = [(bool(pred[n, y, x]), bool(target[n, y, x])) for y in range(5) for x in range(5)]
        both, either = sum(p and t for p, t in pairs), sum(p or t for p, t in pairs)
        per_picture.append(both / either)
        both_sum, any_sum, right = both_sum + both, any_sum + either, right + sum(p == t for p, t in pairs)
    assert iou(pred, target).tolist() == pytest.approx(per_picture)
    assert mean_iou(pred, target) == pytest.approx(sum(per_picture) / len(per_picture))
    assert pooled_iou(pred, target) == pytest.approx(both_sum / any_sum)
    assert pixel_accuracy(pred, target) == pytest.approx(right / pred.numel())


def test_full_mask_scores_the_mean_coverage() -> None:
    target = _random_masks()[1]
    assert full_mask_iou(target) == pytest.approx(target.double().mean().item())


def test_iou_is_symmetric_and_accuracy_survives_inversion() -> None:
    pred, target = _random_masks()
    assert torch.equal(iou(pred, target), iou(target, pred))
    assert pixel_accuracy(~pred, ~target) == pixel_accuracy(pred, target)
    assert mean_iou(~pred, ~target) != pytest.approx(mean_iou(pred, target))


def test_polarity_is_never_chosen_by_default() -> None:
    target = _random_masks()[1]
    assert mask_scores(~target, target)["mean_iou"] == 0
    assert mask_scores(~target, target)["inverted"] is False


def test_oracle_polarity_inverts_the_whole_set_only_when_better() -> None:
    target = _random_masks()[1]
    swapped = mask_scores(~target, target, oracle_polarity=True)
    assert (swapped["mean_iou"], swapped["inverted"]) == (1.0, True)
    assert mask_scores(target, target, oracle_polarity=True)["inverted"] is False


def test_pooled_iou_of_empty_masks_is_one() -> None:
    empty = torch.zeros(2, 3, 3, dtype=torch.bool)
    assert pooled_iou(empty, empty) == 1.0


@pytest.mark.parametrize("pred, target, text", [
    (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).bool(), "`pred` to be bool"),
    (torch.zeros(1, 2, 2).bool(), torch.zeros(1, 1, 2, 2).bool(), "`target` to be bool"),
    (torch.zeros(1, 2, 2).bool(), torch.zeros(2, 2, 2).bool(), r"target's shape \[2, 2, 2\]"),
    (torch.zeros(0, 2, 2).bool(), torch.zeros(0, 2, 2).bool(), "not empty"),
])
@pytest.mark.parametrize("score", [iou, mean_iou, pooled_iou, pixel_accuracy, mask_scores])
def test_wrong_masks_are_refused(score, pred: torch.Tensor, target: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        score(pred, target)
