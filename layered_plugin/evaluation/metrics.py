"""Score masks against the truth: overlap, accuracy, F-beta; no files, no printing (paper, section 4).

A quotient of nothing by nothing is 1. So IoU and Dice of two empty masks are 1, for nothing was missed and nothing
invented, and 0 if one of them is empty; the precision of an empty prediction is 1, and the recall of an empty truth.
Polarity is part of the result: object pixels are True, and only `oracle_polarity` ever swaps them.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from layered_plugin.evaluation.boundary import boundary_f

BETA2 = 0.3  # Weight of recall in F-beta, squared; as the literature on salient objects has it.
THRESHOLDS = 255  # Of max F-beta: 0 (so that everything is object), 1/255, ..., 254/255.

MEANS = ("iou", "miou", "dice", "pixel_accuracy", "boundary_f")
TOTALS = ("both", "pred", "target", "size", "full_mask_iou", "empty_pred", "empty_target", "both_empty", "num")

GROUPS = 4096  # Pictures that the bootstrap draws one by one; of more, it draws random groups.


class Counts(NamedTuple):
    """Numbers of pixels and what follows from them: of one picture, of several [N], or of a whole set."""

    both: Any  # Object in prediction and truth.
    pred: Any  # Object in the prediction.
    target: Any  # Object in the truth.
    size: Any  # All pixels.

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union: pixels in both masks by pixels in either; 1 where both are empty."""
        return _ratio(self.both, self.pred + self.target - self.both)

    @property
    def miou(self) -> np.ndarray:
        """Mean of the object's IoU and the background's."""
        neither = self.size - self.pred - self.target + self.both
        return (self.iou + _ratio(neither, self.size - self.both)) / 2

    @property
    def dice(self) -> np.ndarray:
        return _ratio(2 * self.both, self.pred + self.target)

    @property
    def fbeta(self) -> np.ndarray:
        """(1 + beta^2) precision recall / (beta^2 precision + recall); 0 where both of them are 0."""
        return _ratio(self.both + BETA2 * self.both, self.pred + BETA2 * self.target)

    @property
    def pixel_accuracy(self) -> np.ndarray:
        return _ratio(self.size - self.pred - self.target + 2 * self.both, self.size)


class MaskEvaluation:
    """Scores of a stream of masks, one picture at a time; sizes may vary, memory does not grow.

    Args:
        threshold: A pixel is predicted to be object from this opacity on.
        oracle_polarity: Swap object and background of the whole set if that gives the higher mean IoU. This uses the
            truth: such scores are no measure of an unsupervised method.
        sizes: Shares of the picture, in (0, 1) and rising, that part pictures by the size of their true object; a
            bound itself belongs to the larger ones. None = no such scores.

    Raises:
        ValueError: `sizes` are none.
    """

    def __init__(self, threshold: float = 0.5, oracle_polarity: bool = False, sizes: Sequence[float] = ()) -> None:
        bounds = [0.0, *sizes, 1.0]
        if not all(low < high for low, high in zip(bounds, bounds[1:], strict=False)):  # Not a number fails it.
            raise ValueError(f"Expected argument `sizes` to rise between 0 and 1, but got {list(sizes)}")
        self.threshold, self.oracle_polarity = threshold, oracle_polarity
        self._polarities = [_Sums(sizes) for _ in range(1 + oracle_polarity)]  # As it is, swapped.

    def add(self, pred: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Take in one picture.

        Args:
            pred: Predicted opacity, [H, W], float in [0, 1], or bool.
            target: True object pixels, [H, W], bool.

        Returns:
            The picture's `MEANS`, without a swap.

        Raises:
            ValueError: A shape, type or value is another.
        """
        shape = list(target.shape)
        if target.dtype != bool or target.ndim != 2 or target.size == 0:
            raise ValueError(f"Expected argument `target` to be bool [H, W], not empty, got {target.dtype} {shape}")
        if pred.shape != target.shape or pred.dtype.kind not in "bf":
            raise ValueError(f"Expected argument `pred` to be bool or float {shape}, got {pred.dtype} {[*pred.shape]}")
        soft = pred.astype(np.float64)
        if not (soft.min() >= 0 and soft.max() <= 1):  # Not a number fails both.
            raise ValueError(f"Expected argument `pred` to be in [0, 1], but got {soft.min()} to {soft.max()}")
        binary = soft >= self.threshold
        if self.oracle_polarity:
            self._polarities[1].add(~binary, 1 - soft, target)
        return self._polarities[0].add(binary, soft, target)

    def result(self, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Scores of the set.

        Args:
            bootstrap: Resamplings of the pictures for the intervals.
            seed: Of the resampling.

        Returns:
            Means over the pictures of `iou`, `miou` (mean of object's and background's), `dice`, `pixel_accuracy` and
            `boundary_f` (``boundary``); `max_fbeta` (F-beta per picture and threshold, averaged over the pictures,
            the largest of the thresholds); each with its 95 % percentile interval as `..._ci`, [low, high].
            `pooled_iou`, `pooled_miou`, `pooled_dice` from the pixels of the whole set. `full_mask_iou`, the mean IoU
            of calling everything object. `pred_coverage`, `target_coverage`, shares of all pixels. `num`, and how
            many pictures have `empty_pred`, `empty_target`, `both_empty`. `oracle_polarity`, and whether it
            `inverted` the set. With `sizes`, `by_size`, from small to large objects: `low` and `high` share, `num` of
            the pictures, their mean `iou` and its `iou_ci`, both None where there are none; pictures without an
            object are nowhere.

        Raises:
            ValueError: No picture was added, or `bootstrap` is below 1.
        """
        if bootstrap < 1 or not self._polarities[0].num:
            raise ValueError(f"Expected `bootstrap` and the number of pictures to be at least 1, "
                             f"but got {bootstrap} and {self._polarities[0].num}")
        results = [sums.result(bootstrap, seed) for sums in self._polarities]
        best = max(results, key=lambda scores: scores["iou"])  # Of equals the first: no swap.
        return dict(best, oracle_polarity=self.oracle_polarity, inverted=best is not results[0])


class _Groups:
    """Rows of numbers, one per picture, added up in groups that the bootstrap draws from; memory does not grow."""

    def __init__(self, columns: int) -> None:
        self.num = 0
        self._sums = np.zeros((GROUPS, columns))
        self._draws = np.random.default_rng(0)

    def add(self, row: Sequence[float]) -> None:
        """Take in a picture's row; its last column must be 1."""
        if self.num == GROUPS:  # From here on a picture's group is random, so that no order of theirs matters.
            dealt, self._sums = self._sums, np.zeros_like(self._sums)
            np.add.at(self._sums, self._draws.integers(GROUPS, size=GROUPS), dealt)
        self._sums[self.num if self.num < GROUPS else self._draws.integers(GROUPS)] += row
        self.num += 1

    def totals(self, bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums over the pictures, [columns], and over resamplings of them, [bootstrap, columns]."""
        used = self._sums[self._sums[:, -1] > 0]
        drawn = np.random.default_rng(seed).multinomial(len(used), [1 / len(used)] * len(used), size=bootstrap)
        return used.sum(axis=0), drawn @ used


class _Sums:
    """Sums over pictures of what is known of each, and of the IoU by the object's size."""

    def __init__(self, sizes: Sequence[float] = ()) -> None:
        self._groups = _Groups(len(MEANS) + THRESHOLDS + len(TOTALS))
        self._sizes = sizes
        self._by_size = [_Groups(2) for _ in range(len(sizes) + 1)] if sizes else []  # IoU, 1.

    @property
    def num(self) -> int:
        return self._groups.num

    def add(self, binary: np.ndarray, soft: np.ndarray, target: np.ndarray) -> dict[str, float]:
        counts = Counts(int((binary & target).sum()), int(binary.sum()), int(target.sum()), target.size)
        scores = {name: float(getattr(counts, name)) for name in MEANS if name != "boundary_f"}
        scores["boundary_f"] = boundary_f(binary, target)
        empty = (counts.pred == 0, counts.target == 0, counts.pred == counts.target == 0)
        share = counts.target / counts.size
        self._groups.add([*scores.values(), *_fbeta_curve(soft, target), *counts, share, *empty, 1])
        if self._by_size and counts.target:
            self._by_size[bisect_right(self._sizes, share)].add([scores["iou"], 1])
        return scores

    def result(self, bootstrap: int, seed: int) -> dict[str, Any]:
        sums, drawn = self._groups.totals(bootstrap, seed)
        names, intervals = (*MEANS, "max_fbeta"), _interval(_means(drawn))
        totals = dict(zip(TOTALS, sums[-len(TOTALS):].tolist(), strict=True))
        pixels = Counts(*(totals[name] for name in Counts._fields))
        scores = dict(zip(names, _means(sums).tolist(), strict=True),
                      **{f"{name}_ci": interval for name, interval in zip(names, intervals, strict=True)},
                      **{f"pooled_{name}": float(getattr(pixels, name)) for name in ("iou", "miou", "dice")},
                      full_mask_iou=totals["full_mask_iou"] / self.num, pred_coverage=pixels.pred / pixels.size,
                      target_coverage=pixels.target / pixels.size,
                      **{name: int(totals[name]) for name in ("num", "empty_pred", "empty_target", "both_empty")})
        return dict(scores, by_size=self._sized(bootstrap, seed)) if self._by_size else scores

    def _sized(self, bootstrap: int, seed: int) -> list[dict[str, Any]]:
        scores = []
        for low, high, group in zip((0.0, *self._sizes), (*self._sizes, 1.0), self._by_size, strict=True):
            iou, interval = None, None
            if group.num:
                sums, drawn = group.totals(bootstrap, seed)
                iou, interval = float(sums[0] / sums[1]), _interval(drawn[:, 0] / drawn[:, 1])
            scores.append(dict(low=low, high=high, num=group.num, iou=iou, iou_ci=interval))
        return scores


def _interval(drawn: np.ndarray) -> list[Any]:
    """95 % percentile interval of values [bootstrap, ...] over the resamplings, [..., 2]."""
    return np.percentile(drawn, [2.5, 97.5], axis=0).T.tolist()


def _means(sums: np.ndarray) -> np.ndarray:
    """From sums over pictures, [..., columns], `MEANS` and max F-beta, [..., 6]."""
    mean = sums / sums[..., -1:]
    max_fbeta = mean[..., len(MEANS):-len(TOTALS)].max(axis=-1, keepdims=True)
    return np.concatenate([mean[..., :len(MEANS)], max_fbeta], axis=-1)


def _fbeta_curve(soft: np.ndarray, target: np.ndarray) -> np.ndarray:
    """F-beta with object where soft >= k / 255, [255]; from a histogram, not by one comparison each."""
    level = np.minimum((soft * THRESHOLDS + 1e-9).astype(np.int64), THRESHOLDS - 1)  # For k / 255 * 255 < k.
    both, pred = (np.bincount(part.ravel(), minlength=THRESHOLDS)[::-1].cumsum()[::-1]
                  for part in (level[target], level))
    return Counts(both, pred, int(target.sum()), target.size).fbeta


def _ratio(part: Any, whole: Any) -> np.ndarray:
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.ones(whole.shape), where=whole > 0)


def mean_and_deviation(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By name `mean` and population `deviation` over runs of every number (not truth value) that all records have.

    ValueError if there are no records.
    """
    if not records:
        raise ValueError("Expected argument `records` to hold at least one, but got none")
    columns: dict[str, list[Any]] = {name: [record.get(name) for record in records] for name in records[0]}
    return {name: dict(mean=float(np.mean(column)), deviation=float(np.std(column)))
            for name, column in columns.items()
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)}
