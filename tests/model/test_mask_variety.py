"""Outlines of masks: closed forms on boxes."""

import pytest
import torch

from layered_plugin.model.mask_variety import best_ious, compare_masks, spread


def box(top, left, height, width, px=16):
    mask = torch.zeros(px, px)
    mask[top:top + height, left:left + width] = 1
    return mask


def random_boxes(num, seed):
    rng = torch.Generator().manual_seed(seed)
    sides = torch.randint(4, 10, [num, 2], generator=rng)
    corners = torch.randint(0, 6, [num, 2], generator=rng)
    return torch.stack([box(*map(int, corner), *map(int, side)) for corner, side in zip(corners, sides, strict=True)])


def test_best_iou_is_that_of_the_most_similar_mask():
    masks = torch.stack([box(0, 0, 4, 4), box(0, 0, 2, 4)])
    others = torch.stack([box(0, 0, 4, 8), box(8, 8, 4, 4), box(0, 0, 4, 4)])
    assert best_ious(masks, others).tolist() == [1, 0.5]
    assert best_ious(masks, others[:2]).tolist() == [0.5, 0.25]


def test_best_iou_does_not_depend_on_the_chunk_and_knows_empty_masks():
    masks, others = random_boxes(9, 0), random_boxes(7, 1)
    assert torch.equal(best_ious(masks, others), best_ious(masks, others, chunk=2))
    empty = torch.zeros(1, 16, 16)
    assert best_ious(empty, empty).tolist() == [1]
    assert best_ious(empty, others).tolist() == [0]


def test_spread_of_one_outline_is_zero_and_of_two_halves_one_half():
    assert spread(box(2, 2, 8, 8).expand(5, -1, -1)) == dict(variation=0, area=0.25, area_deviation=0)
    halves = torch.stack([box(0, 0, 16, 8), box(0, 8, 16, 8)])
    assert spread(halves) == dict(variation=0.5, area=0.5, area_deviation=0)


def test_real_masks_against_themselves_have_share_one():
    real = random_boxes(400, 0)
    found = compare_masks(random_boxes(400, 1), real, num_queries=100)
    for name, value in found["share"].items():
        assert value == pytest.approx(1, abs=0.1), name
    assert (found["num_queries"], found["num_compared"]) == (100, 300)


def test_one_outline_has_precision_but_no_coverage():
    real = random_boxes(400, 0)
    share = compare_masks(real[:1].expand(400, -1, -1), real[1:], num_queries=100)["share"]
    assert share["coverage"] < 0.6 < share["precision"]
    assert share["variation"] == 0 == share["area_deviation"]


@pytest.mark.parametrize("generated, real", [(torch.zeros(4, 8, 8), torch.zeros(4, 9, 9)),
                                             (torch.zeros(4, 8, 8), torch.zeros(1, 8, 8)),
                                             (torch.zeros(0, 8, 8), torch.zeros(4, 8, 8))])
def test_masks_that_cannot_be_compared_are_refused(generated, real):
    with pytest.raises(ValueError, match="Expected"):
        compare_masks(generated, real)
