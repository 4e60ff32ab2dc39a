"""Score generated and real masks against a teacher, as Tables 1 and 2 of the paper do; section 4.

Pictures go by in batches; only their scores are kept. No files are written here.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch.nn import functional as F

from layered_plugin.data.labels import Labels
from layered_plugin.data.masks import OBJECT_LEVEL, THRESHOLD, square_mask
from layered_plugin.data.pictures import PictureSource, full_batches, to_rgb, to_square, to_uint8
from layered_plugin.evaluation.metrics import MaskEvaluation
from layered_plugin.evaluation.teachers import Teacher, none_if_empty
from layered_plugin.model.layers import composite, union_mask
from layered_plugin.model.scenes import draw_scenes
from layered_plugin.progress import progress
from layered_plugin.segmentation.segmenter import USUAL, Refinement

SHOWN = 8  # Best and worst pictures that are kept to be looked at.


class Example(NamedTuple):
    """One scored picture."""

    name: str
    iou: float
    picture: np.ndarray  # [H, W, 3] uint8
    mask: np.ndarray  # [H, W] float32 in [0, 1]
    truth: np.ndarray  # [H, W] bool


class Tally:
    """Scores of one predictor, over the pictures with an object and over all; arguments as of ``MaskEvaluation``."""

    def __init__(self, oracle_polarity: bool = False, sizes: Sequence[float] = ()) -> None:
        self._detected = MaskEvaluation(threshold=THRESHOLD, oracle_polarity=oracle_polarity, sizes=sizes)
        self._all = self._detected  # One and the same until a picture without an object comes.
        self.num_detected = 0

    def add(self, pred: np.ndarray, truth: np.ndarray | None) -> float:
        """Score a mask [H, W], float in [0, 1] or bool, by a truth [H, W], bool, None = no object; returns its IoU."""
        if truth is None:
            if self._all is self._detected:
                self._all = copy.deepcopy(self._detected)
            return self._all.add(pred, np.zeros(pred.shape, bool))["iou"]
        self.num_detected += 1
        if self._all is not self._detected:
            self._all.add(pred, truth)
        return self._detected.add(pred, truth)["iou"]

    def result(self, seed: int) -> dict[str, Any]:
        """Both sets of scores.

        Args:
            seed: Of the bootstrap.

        Returns:
            `detected`: scores of the pictures in which the teacher sees an object, None if there are none; `all`:
            those of all pictures, the truth being a zero mask where no object is seen. There an empty prediction
            has IoU 1 and any other IoU 0.
        """
        detected = self._detected.result(seed=seed) if self.num_detected else None
        return dict(detected=detected, all=detected if self._all is self._detected else self._all.result(seed=seed))


class Extremes:
    """The pictures with the highest and the lowest IoU so far, best and worst first; keeps ``SHOWN`` of each."""

    def __init__(self) -> None:
        self.best: list[Example] = []
        self.worst: list[Example] = []

    def add(self, example: Example) -> None:
        """Consider one more picture; of equals the earlier one stays in front."""
        self.best = sorted([*self.best, example], key=lambda scored: -scored.iou)[:SHOWN]
        self.worst = sorted([*self.worst, example], key=lambda scored: scored.iou)[:SHOWN]


@torch.no_grad()
def score_generated(G_ema: Any, teacher: Teacher, *, num: int, seed: int, size_px: int | None = None,
                    trunc: float = 1.0, batch: int = 32, labels: Labels | None = None) -> dict[str, Any]:
    """Compare the masks of generated scenes with what a teacher sees in their unshifted composites (Table 1).

    The mask of a scene of several objects is of all of them together.

    Args:
        G_ema: Layered generator in evaluation mode.
        teacher: What stands for the truth; it sees the composites.
        num: Number of scenes.
        seed: Of the latents and of the bootstrap.
        size_px: Side of the pictures that the teacher sees; None = the generator's own. Composites are resized
            bilinearly; masks are binarised at 0.5 and then enlarged without smoothing; IoU is taken at this size.
        trunc: Truncation psi.
        batch: Scenes at a time.
        labels: Of the scenes; None = every class equally likely.

    Returns:
        `num`, `num_detected`, `mean_iou` over the scenes in which the teacher sees the object (the paper's mIoU),
        `reference_iou` = that of the full-image mask (both None if it sees none), mean `coverage` of the masks and
        `teacher_coverage`, and the score sets `detected` and `all` of ``Tally.result``.

    Raises:
        TeacherError: A picture has no usable truth.
    """
    tally, coverage, teacher_coverage = Tally(), 0.0, 0.0
    numbers = itertools.count()
    for layers in draw_scenes(G_ema, num, seed, labels, batch, trunc):
        img, masks = composite(layers).float().clamp(-1, 1), union_mask(layers).float()
        if size_px is not None and size_px != img.shape[-1]:
            img = F.interpolate(img, size=[size_px, size_px], mode="bilinear", antialias=True)
            masks = F.interpolate(masks, size=[size_px, size_px], mode="nearest-exact")
        pictures = list(to_uint8(img).permute(0, 2, 3, 1).cpu().numpy())
        truths = teacher(pictures, [f"seed{seed}-scene{next(numbers):08d}" for _ in pictures])
        for mask, truth in zip(masks[:, 0].cpu().numpy(), truths, strict=True):
            tally.add(mask, truth)
            coverage += float((mask >= THRESHOLD).mean()) / num
            teacher_coverage += float(truth.mean()) / num if truth is not None else 0.0
    sets = tally.result(seed)
    seen = sets["detected"] or dict(iou=None, full_mask_iou=None)
    return dict(num=num, num_detected=tally.num_detected, mean_iou=seen["iou"], reference_iou=seen["full_mask_iou"],
                coverage=coverage, teacher_coverage=teacher_coverage, **sets)


def score_real(segmenters: Sequence[Callable[..., Any]], source: PictureSource, names: Sequence[str],
               teacher: Teacher, *, baselines: Mapping[str, Callable[[np.ndarray], np.ndarray]],
               size_px: int | None = None, oracle_polarity: bool = False,
               refinement: Refinement = USUAL, sizes: Sequence[float] = (), seed: int = 0, batch: int = 100
               ) -> tuple[dict[str, Any], list[Extremes]]:
    """Compare masks of real pictures with a teacher's (Table 2), for several models and baselines at once.

    Args:
        segmenters: Models, called as ``Segmenter`` is.
        source: The pictures.
        names: Which of them, at least one.
        teacher: What stands for the truth; it sees each picture at its own size.
        baselines: Functions from picture [H, W, 3] uint8 to mask [H, W] bool, by name.
        size_px: None = score at each picture's own size; else picture and truth are first squeezed to a square of
            this side, and scored there.
        oracle_polarity: Let object and background be swapped where the truth says so, for all predictors.
        refinement: Of each model's masks.
        sizes: Shares of the picture that part it by the true object's size, for `by_size` of ``MaskEvaluation``.
        seed: Of the bootstrap.
        batch: Pictures at a time, at most; fewer if they are large. More at a time are refined quicker.

    Returns:
        `num`, `num_detected`; `models`, one per segmenter: the score sets of ``Tally.result``,
        `reconstruction_error` (mean absolute, over [0, 255]; None unless it is an encoder) and `confidence` of the
        pictures with an object (``score_confidence``); `baselines` by name.
        And each segmenter's best and worst pictures among those with an object.

    Raises:
        PictureError, TeacherError, ModelError: A picture can't be read or segmented, or has no usable truth; the text
            names it.
    """
    runs = [_Run(segmenter, Tally(oracle_polarity, sizes)) for segmenter in segmenters]
    tallies = {name: Tally(oracle_polarity, sizes) for name in baselines}
    num_detected = 0
    opened = ((name, np.asarray(to_rgb(source.open(name)))) for name in names)
    batches = full_batches(opened, lambda item: item[1].shape[0] * item[1].shape[1], batch)
    for batch_names, pictures in _with_progress(batches, len(names)):
        truths = teacher(pictures, batch_names)
        if size_px is not None:
            pictures = [to_square(PIL.Image.fromarray(picture), size_px).transpose(1, 2, 0) for picture in pictures]
            truths = [None if truth is None else none_if_empty(square_mask(truth, size_px, "squeeze") >= OBJECT_LEVEL)
                      for truth in truths]
        num_detected += sum(truth is not None for truth in truths)
        for run in runs:
            run.add(batch_names, pictures, truths, refinement)
        for name, tally in tallies.items():
            for picture, truth in zip(pictures, truths, strict=True):
                tally.add(baselines[name](picture), truth)
    result = dict(num=len(names), num_detected=num_detected, models=[run.result(seed) for run in runs],
                  baselines={name: tally.result(seed) for name, tally in tallies.items()})
    return result, [run.extremes for run in runs]


def score_confidence(confidence: Sequence[float], iou: Sequence[float]) -> dict[str, float | None]:
    """What a model's confidence says of the true IoU of its masks.

    Args:
        confidence: Of each picture.
        iou: True ones of the same pictures.

    Returns:
        `mean` of the confidence, None without pictures; `spearman`: its rank correlation with the IoU, in [-1, 1], None
        where one of the two does not vary.
    """
    from scipy.stats import spearmanr  # Takes a second to import.

    varies = len(set(confidence)) > 1 and len(set(iou)) > 1
    return dict(mean=float(np.mean(confidence)) if confidence else None,
                spearman=float(spearmanr(confidence, iou).statistic) if varies else None)


def _with_progress(batches: Iterable[list[tuple[str, np.ndarray]]],
                   num: int) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Names and pictures of each batch, with progress in pictures."""
    ticks = iter(progress(range(num), num, "Pictures"))
    for part in batches:
        yield [name for name, _ in part], [picture for _, picture in part]
        for _ in part:
            next(ticks)
    next(ticks, None)


class _Run:
    """One model on its way through the pictures."""

    def __init__(self, segmenter: Callable[..., Any], tally: Tally) -> None:
        self.segmenter, self.tally, self.extremes = segmenter, tally, Extremes()
        self._error_sum, self._error_num = 0.0, 0
        self._confidence: list[float] = []  # Of the pictures with an object, like their IoU.
        self._iou: list[float] = []

    def add(self, names: list[str], pictures: list[np.ndarray], truths: Sequence[np.ndarray | None],
            refinement: Refinement) -> None:
        segmented = self.segmenter(pictures, names, refinement)
        for name, picture, segmentation, truth in zip(names, pictures, segmented, truths, strict=True):
            if segmentation.error is not None:
                self._error_sum, self._error_num = self._error_sum + segmentation.error, self._error_num + 1
            iou = self.tally.add(segmentation.mask, truth)
            if truth is not None:
                self._confidence.append(segmentation.confidence)
                self._iou.append(iou)
                self.extremes.add(Example(name, iou, picture, segmentation.mask, truth))

    def result(self, seed: int) -> dict[str, Any]:
        error = self._error_sum / self._error_num if self._error_num else None
        return dict(self.tally.result(seed), reconstruction_error=error,
                    confidence=score_confidence(self._confidence, self._iou))
