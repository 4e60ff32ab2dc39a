"""Scores of masks: hand-made cases, slow loops, other libraries, and what must not change them."""

import json

import numpy as np
import pytest
import scipy.stats
import torch

from layered_plugin.evaluation import metrics
from layered_plugin.evaluation.metrics import MaskEvaluation, mean_and_deviation
from layered_plugin.evaluation.sizes import sizes_over

MEANS = ("iou", "miou", "dice", "pixel_accuracy", "max_fbeta")


def soft_pictures(num: int = 40, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures of several sizes with an object each. Predictions lie a quarter above the 8-bit levels, below 1."""
    draws, pairs = np.random.default_rng(seed), []
    for _ in range(num):
        target = draws.random(draws.integers(6, 12, size=2)) < draws.uniform(0.1, 0.6)
        target[3, 2] = True
        level = np.clip(80 * target + draws.integers(0, 175, size=target.shape), 0, 254)
        pairs.append(((level + 0.25) / 255, target))
    return pairs


def evaluate(pairs, bootstrap: int = 20, seed: int = 0, **options) -> dict:
    scores = MaskEvaluation(**options)
    for pred, target in pairs:
        scores.add(pred, target)
    return scores.result(bootstrap, seed)


def slow_fbeta(pred: np.ndarray, target: np.ndarray, threshold: float) -> float:
    binary = pred >= threshold
    hits = np.count_nonzero(binary & target)
    precision = hits / np.count_nonzero(binary) if binary.any() else 1
    recall = hits / np.count_nonzero(target) if target.any() else 1
    return 0 if precision == recall == 0 else 1.3 * precision * recall / (0.3 * precision + recall)


def mask(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


@pytest.mark.parametrize("pred, target, expected", [
    (mask("xx", ".."), mask("xx", ".."), dict(iou=1, miou=1, dice=1, pixel_accuracy=1, max_fbeta=1)),
    # One right, one missed, one invented, one background: precision and recall 1/2.
    (mask("xx", ".."), mask("x.", "x."), dict(iou=1 / 3, miou=1 / 3, dice=1 / 2, pixel_accuracy=1 / 2)),
    # Precision 1, recall 1/2.
    (mask("x...", "...."), mask("xx..", "...."),
     dict(iou=1 / 2, miou=(1 / 2 + 6 / 7) / 2, dice=2 / 3, pixel_accuracy=7 / 8, max_fbeta=1.3 * 0.5 / (0.3 + 0.5))),
    # Precision 1/2, recall 1: the same IoU and Dice, another F.
    (mask("xx..", "...."), mask("x...", "...."),
     dict(iou=1 / 2, miou=(1 / 2 + 6 / 7) / 2, dice=2 / 3, pixel_accuracy=7 / 8, max_fbeta=1.3 * 0.5 / (0.15 + 1))),
])
def test_scores_of_hand_made_pictures(pred: np.ndarray, target: np.ndarray, expected: dict) -> None:
    result = evaluate([(pred, target)])
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert all(result[f"{name}_ci"] == pytest.approx([result[name]] * 2) for name in MEANS)  # One picture: no spread.
    assert [result[f"pooled_{name}"] for name in MEANS[:3]] == pytest.approx([result[name] for name in MEANS[:3]])


@pytest.mark.parametrize("pred, target, expected, empty", [
    (mask("..", ".."), mask("..", ".."), dict(iou=1, miou=1, dice=1, max_fbeta=1, pooled_iou=1, pooled_dice=1),
     (1, 1, 1)),
    (mask("x.", ".."), mask("..", ".."), dict(iou=0, miou=3 / 8, dice=0, max_fbeta=0, pooled_iou=0), (0, 1, 0)),
    # Threshold 0 calls everything object: precision 1/4, recall 1.
    (mask("..", ".."), mask("x.", ".."), dict(iou=0, miou=3 / 8, dice=0, max_fbeta=1.3 / 4 / (0.3 / 4 + 1)), (1, 0, 0)),
    # Nothing is background in either.
    (mask("xx", "xx"), mask("xx", "xx"), dict(iou=1, miou=1, dice=1, max_fbeta=1, pooled_miou=1), (0, 0, 0)),
])
def test_empty_masks_score_what_is_documented(pred, target, expected, empty) -> None:
    result = evaluate([(pred, target)])
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert (result["empty_pred"], result["empty_target"], result["both_empty"]) == empty


def test_means_treat_pictures_alike_and_pooled_scores_pixels() -> None:
    right, wrong = np.ones((1, 2), bool), np.ones((3, 2), bool)
    result = evaluate([(right, right), (~wrong, wrong)])
    assert (result["iou"], result["dice"], result["pixel_accuracy"]) == (0.5, 0.5, 0.5)
    assert (result["pooled_iou"], result["pooled_dice"]) == pytest.approx((2 / 8, 2 * 2 / (2 + 8)))
    assert (result["num"], result["pred_coverage"], result["target_coverage"]) == (2, 2 / 8, 1)


def object_of(pixels: int, found: int, size: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose object has so many of its pixels, and a prediction of the first few of them."""
    order = np.arange(size).reshape(10, -1)
    return order < found, order < pixels


def test_iou_by_the_objects_share_of_the_picture() -> None:
    # A bound belongs to the larger objects; the IoU is that of found pixels among true ones.
    pairs = [object_of(2, 1), object_of(7, 7), object_of(8, 2), object_of(24, 6), object_of(25, 20), object_of(100, 50)]
    result = evaluate(pairs, sizes=(0.08, 0.15, 0.25))
    bins = result["by_size"]
    assert [(one["low"], one["high"], one["num"]) for one in bins] == [
        (0, 0.08, 2), (0.08, 0.15, 1), (0.15, 0.25, 1), (0.25, 1, 2)]
    assert [one["iou"] for one in bins] == pytest.approx([0.75, 0.25, 0.25, 0.65])
    assert bins[1]["iou_ci"] == pytest.approx([0.25, 0.25])
    assert sum(one["iou"] * one["num"] for one in bins) / 6 == pytest.approx(result["iou"])


def test_sizes_without_pictures_have_no_iou_and_empty_truths_no_size() -> None:
    pairs = [object_of(50, 50), object_of(0, 0), object_of(0, 5)]
    small, large = evaluate(pairs, sizes=(0.1,))["by_size"]
    assert small == dict(low=0.0, high=0.1, num=0, iou=None, iou_ci=None) and large["num"] == 1
    assert "NaN" not in json.dumps([small, large])
    assert "by_size" not in evaluate(pairs)
    for wrong in ((0.2, 0.1), (0.0,), (1.0,), (0.1, 0.1), (float("nan"),)):
        with pytest.raises(ValueError, match="`sizes`"):
            MaskEvaluation(sizes=wrong)


def test_intervals_by_size_are_those_of_the_pictures_alone() -> None:
    draws = np.random.default_rng(0)
    small = [object_of(5, int(draws.integers(6))) for _ in range(30)]
    large = [object_of(60, int(draws.integers(61))) for _ in range(50)]
    mixed = [pair for pairs in zip(small, large[:30], strict=True) for pair in pairs] + large[30:]
    first, last = evaluate(mixed, 500, 3, sizes=(0.1,))["by_size"]
    for one, alone in ((first, small), (last, large)):
        expected = evaluate(alone, 500, 3)
        assert (one["iou"], *one["iou_ci"]) == pytest.approx((expected["iou"], *expected["iou_ci"]))


def test_sizes_follow_the_polarity_of_the_whole_set() -> None:
    pairs = [(~target, target) for _pred, target in (object_of(5, 5), object_of(40, 40), object_of(60, 60))]
    assert [one["iou"] for one in evaluate(pairs, sizes=(0.1,))["by_size"]] == [0, 0]
    assert [one["iou"] for one in evaluate(pairs, sizes=(0.1,), oracle_polarity=True)["by_size"]] == [1, 1]


def test_sizes_over_several_models() -> None:
    models = [evaluate([object_of(5, found), object_of(50, 25)], sizes=(0.1, 0.2))["by_size"] for found in (1, 3)]
    small, none, large = sizes_over(models)
    assert small == dict(low=0.0, high=0.1, num=1, iou=dict(mean=pytest.approx(0.4), deviation=pytest.approx(0.2)))
    assert none == dict(low=0.1, high=0.2, num=0, iou=None)
    assert large["iou"] == dict(mean=0.5, deviation=0)


def test_stream_matches_formulas() -> None:
    pairs = soft_pictures()
    pairs += [(pred, np.zeros_like(target)) for pred, target in pairs[:3]]  # Without an object.
    pairs += [(np.zeros_like(pred), target) for pred, target in pairs[:3]]
    pairs += [(np.zeros_like(pred), np.zeros_like(target)) for pred, target in pairs[:2]]
    result = evaluate(pairs)
    curve = [np.mean([slow_fbeta(*pair, k / 255) for pair in pairs]) for k in range(255)]
    assert result["max_fbeta"] == pytest.approx(max(curve), rel=1e-12)
    assert result["full_mask_iou"] == pytest.approx(np.mean([target.mean() for _, target in pairs]))
    assert result["num"] == 48 and result["both_empty"] == 2
    assert result["empty_target"] == 5 and result["empty_pred"] == 5


@pytest.mark.parametrize("levels", [np.arange(256) / 255, np.arange(256, dtype=np.float32) / 255,
                                    np.arange(256) * (1 / 255)])
def test_levels_of_eight_bits_are_reached_by_their_thresholds(levels: np.ndarray) -> None:
    # A mask from a PNG file, one pixel a level: the threshold of each level but the last parts it from those below.
    pairs = [(levels.reshape(16, 16), np.arange(256).reshape(16, 16) >= k) for k in range(255)]
    assert [evaluate([pair], bootstrap=1)["max_fbeta"] for pair in pairs] == [1] * 255


def test_pooled_and_mean_scores_match_torchmetrics() -> None:
    from torchmetrics.classification import (  # Takes seconds to import.
        BinaryAccuracy,
        BinaryF1Score,
        BinaryJaccardIndex,
        MulticlassJaccardIndex,
    )
    from torchmetrics.segmentation import DiceScore

    pairs = [(pred[:6, :6], target[:6, :6]) for pred, target in soft_pictures()]
    result = evaluate(pairs)
    # It binarises by > 0.5, we by >= 0.5, and no value is 0.5. No picture lacks an object, for of two empty masks it
    # leaves out the Dice.
    pred = torch.from_numpy(np.stack([pred for pred, _ in pairs]))
    target = torch.from_numpy(np.stack([target for _, target in pairs])).long()
    assert not (pred == 0.5).any() and target.flatten(1).any(dim=1).all()
    binary = (pred > 0.5).long()
    for score, name in ((BinaryJaccardIndex(), "pooled_iou"), (BinaryF1Score(), "pooled_dice"),
                        (BinaryAccuracy(), "pixel_accuracy")):  # Of pictures of one size the mean is the pooled one.
        assert float(score(pred, target)) == pytest.approx(result[name], abs=1e-6)
    assert float(MulticlassJaccardIndex(2)(binary, target)) == pytest.approx(result["pooled_miou"], abs=1e-6)
    dice = DiceScore(2, include_background=False, average="macro", input_format="index")
    assert float(dice(binary, target)) == pytest.approx(result["dice"], abs=1e-6)


def test_max_fbeta_and_mean_scores_match_pysodmetrics() -> None:
    import py_sod_metrics  # Takes seconds to import.

    # It cuts values down to 8 bits, hence values a little above these levels; has a 256th threshold, 1, which no value
    # reaches and where it scores 0; calls F, IoU and Dice of two empty masks 0, hence an object in each picture; and
    # binarises by > 0.5. `normalize=False` leaves out its stretching of each prediction to [0, 1].
    only_binary = dict(with_dynamic=False, with_adaptive=False, with_binary=True)
    oracle = py_sod_metrics.FmeasureV2(dict(
        iou=py_sod_metrics.IOUHandler(**only_binary), dice=py_sod_metrics.DICEHandler(**only_binary),
        pixel_accuracy=py_sod_metrics.OverallAccuracyHandler(**only_binary),
        fbeta=py_sod_metrics.FmeasureHandler(beta=0.3, with_dynamic=True, with_adaptive=False)))
    pairs = soft_pictures()
    for pred, target in pairs:
        oracle.step(pred, target, normalize=False)
    found, result = oracle.get_results(), evaluate(pairs)
    assert result["max_fbeta"] == pytest.approx(found["fbeta"]["dynamic"].max())
    assert all(result[name] == pytest.approx(found[name]["binary"]) for name in ("iou", "dice", "pixel_accuracy"))


def test_max_fbeta_is_the_maximum_of_the_mean_not_the_mean_of_maxima() -> None:
    # Each picture is right at thresholds of its own.
    target = mask("x.", "..")
    early, late = np.where(target, 0.4, 0.2), np.where(target, 0.9, 0.6)
    result = evaluate([(early, target), (late, target)])
    alone = [evaluate([(pred, target)])["max_fbeta"] for pred in (early, late)]
    assert alone == [1, 1] and result["max_fbeta"] < 1


def test_swap_of_prediction_and_truth_is_seen() -> None:
    pairs = [(pred >= 0.5, target) for pred, target in soft_pictures()]
    result, swapped = evaluate(pairs), evaluate([(target, pred) for pred, target in pairs])
    assert all(swapped[name] == pytest.approx(result[name]) for name in MEANS[:4])  # These are symmetric.
    assert swapped["max_fbeta"] != pytest.approx(result["max_fbeta"], abs=1e-3)
    assert swapped["full_mask_iou"] != pytest.approx(result["full_mask_iou"], abs=1e-3)


def test_each_pixel_put_right_raises_every_score() -> None:
    pred, target = soft_pictures(1)[0]
    pred, last = pred >= 0.5, None
    for place in np.argwhere(pred != target):
        pred[tuple(place)] = target[tuple(place)]
        result = evaluate([(pred, target)], bootstrap=1)
        assert last is None or all(result[name] > last[name] for name in MEANS[:4])
        last = result
    assert last is not None and [last[name] for name in MEANS] == [1] * 5


def test_order_of_pictures_does_not_matter() -> None:
    pairs = soft_pictures()
    result, reversed_ = evaluate(pairs), evaluate(pairs[::-1])
    names = [name for name in result if not name.endswith("_ci")]
    assert {name: result[name] for name in names} == pytest.approx({name: reversed_[name] for name in names})


def test_threshold_itself_is_object() -> None:
    target = mask("x.")
    assert evaluate([(np.array([[0.5, 0.49]]), target)])["iou"] == 1
    assert evaluate([(np.array([[0.7, 0.5]]), target)], threshold=0.6)["iou"] == 1


def test_add_returns_the_scores_of_its_picture() -> None:
    scores, pairs = MaskEvaluation(), soft_pictures(10)
    found = [scores.add(*pair) for pair in pairs]
    assert [one["iou"] for one in found] == pytest.approx([evaluate([pair])["iou"] for pair in pairs])
    result = scores.result(bootstrap=5)
    for name in MEANS[:4]:
        assert result[name] == pytest.approx(np.mean([one[name] for one in found]))


def test_stream_keeps_its_polarity_unless_told_to_use_the_truth() -> None:
    pairs = soft_pictures()
    turned = [(1 - pred, target) for pred, target in pairs]
    result, found = evaluate(pairs), evaluate(turned)
    assert found["iou"] < result["iou"] and (found["oracle_polarity"], found["inverted"]) == (False, False)
    oracle = evaluate(turned, oracle_polarity=True)
    assert (oracle.pop("oracle_polarity"), oracle.pop("inverted")) == (True, True)
    assert all(oracle[name] == pytest.approx(result[name]) for name in oracle)
    assert evaluate(pairs, oracle_polarity=True) == dict(result, oracle_polarity=True)


def test_intervals_match_scipy() -> None:
    draws = np.random.default_rng(1)
    pairs = [(draws.random((4, 4)) < 0.5, draws.random((4, 4)) < 0.5) for _ in range(150)]
    scores = MaskEvaluation()
    ious = [scores.add(*pair)["iou"] for pair in pairs]
    other = scipy.stats.bootstrap([ious], np.mean, n_resamples=4000, method="percentile", vectorized=True)
    low, high = scores.result(bootstrap=4000)["iou_ci"]
    width = high - low
    assert (low, high) == pytest.approx(tuple(other.confidence_interval), abs=0.05 * width)


def test_intervals_are_repeatable_hold_the_score_and_narrow_with_pictures() -> None:
    few, many = soft_pictures(20), soft_pictures(320)
    assert evaluate(few) == evaluate(few) and evaluate(few)["iou_ci"] != evaluate(few, seed=1)["iou_ci"]
    for name in MEANS:
        result, better = evaluate(few, 400), evaluate(many, 400)
        assert result[f"{name}_ci"][0] <= result[name] <= result[f"{name}_ci"][1]
        assert np.ptp(better[f"{name}_ci"]) == pytest.approx(np.ptp(result[f"{name}_ci"]) / 4, rel=0.5)


@pytest.mark.parametrize("ordered", [False, True])
def test_groups_of_pictures_change_no_score_and_hardly_an_interval(ordered: bool, monkeypatch) -> None:
    pairs = [(pred if idx % 2 else 1 - pred, target) for idx, (pred, target) in enumerate(soft_pictures(800))]
    if ordered:
        pairs.sort(key=lambda pair: MaskEvaluation().add(*pair)["iou"])
    single = evaluate(pairs, 1000)
    monkeypatch.setattr(metrics, "GROUPS", 400)
    grouped = evaluate(pairs, 1000)
    for name, value in single.items():
        if name.endswith("_ci"):
            assert np.ptp(grouped[name]) == pytest.approx(np.ptp(value), rel=0.15), name
        else:
            assert grouped[name] == pytest.approx(value), name


def test_result_is_plain_json() -> None:
    result = evaluate(soft_pictures(3))
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("pred, target, text", [
    (np.zeros((2, 2)), np.zeros((2, 2)), "`target` to be bool"),
    (np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool), "`target` to be bool"),
    (np.zeros((0, 2)), np.zeros((0, 2), bool), "not empty"),
    (np.zeros((2, 3)), np.zeros((2, 2), bool), r"`pred` to be bool or float \[2, 2\], got float64 \[2, 3\]"),
    (np.full((2, 2), 255, np.uint8), np.zeros((2, 2), bool), "`pred` to be bool or float"),
    (np.full((2, 2), 1.1), np.zeros((2, 2), bool), r"in \[0, 1\]"),
    (np.full((2, 2), -0.1), np.zeros((2, 2), bool), r"in \[0, 1\]"),
    (np.array([[0.5, np.nan]]), np.zeros((1, 2), bool), r"in \[0, 1\]"),
])
def test_wrong_pictures_are_refused(pred: np.ndarray, target: np.ndarray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        MaskEvaluation().add(pred, target)


@pytest.mark.parametrize("num, bootstrap, text", [(0, 10, "got 10 and 0"), (1, 0, "got 0 and 1")])
def test_result_of_nothing_is_refused(num: int, bootstrap: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        evaluate(soft_pictures(num), bootstrap)


def test_mean_and_deviation_are_of_the_numbers_that_all_runs_have() -> None:
    runs = [dict(iou=0.5, num=3, name="a", inverted=True, iou_ci=[0, 1], extra=1.0, gap=None),
            dict(iou=0.7, num=3, name="b", inverted=False, iou_ci=[0, 1], gap=2.0)]
    found = mean_and_deviation(runs)
    assert found.keys() == {"iou", "num"} and found["num"] == dict(mean=3, deviation=0)
    assert found["iou"] == pytest.approx(dict(mean=0.6, deviation=0.1))
    assert mean_and_deviation(runs[:1])["iou"] == dict(mean=0.5, deviation=0)
    with pytest.raises(ValueError, match="at least one"):
        mean_and_deviation([])
