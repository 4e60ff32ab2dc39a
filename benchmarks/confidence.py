"""What says, without a label, how good a mask is: measures of confidence against the true IoU, by rank."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import click
import numpy as np
from scipy.special import entr
from scipy.stats import spearmanr

from benchmarks.support.provenance import provenance
from layered_plugin import Segmenter
from layered_plugin.command_line import Whole, user_errors
from layered_plugin.data.masks import THRESHOLD
from layered_plugin.data.pictures import PictureSource, to_rgb
from layered_plugin.errors import ModelError, PictureError, TeacherError
from layered_plugin.evaluation.scoring import Tally
from layered_plugin.evaluation.teachers import MaskTeacher
from layered_plugin.progress import progress
from layered_plugin.segmentation.full_size import Drawn, enlarge, expected_iou, shrink

SHIFT = 0.1  # Of the side, both ways at once.

# Views of a square [..., H, W], and the way back of a mask.
VIEWS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = dict(
    mirrored=(lambda img: img[..., ::-1], lambda mask: mask[..., ::-1]),
    upside_down=(lambda img: img[..., ::-1, :], lambda mask: mask[..., ::-1, :]),
    transposed=(lambda img: img.swapaxes(-1, -2), lambda mask: mask.swapaxes(-1, -2)),
    shifted=(lambda img: shift(img, 1), lambda mask: shift(mask, -1)),
    shifted_back=(lambda img: shift(img, -1), lambda mask: shift(mask, 1)))


def shift(values: np.ndarray, sign: int) -> np.ndarray:
    """Move [..., S, S] by `SHIFT` of its side down and to the right, or back; the border is repeated."""
    by = round(SHIFT * values.shape[-1])
    padded = np.pad(values, [(0, 0)] * (values.ndim - 2) + [(by, by)] * 2, mode="edge")
    start = by - sign * by
    return padded[..., start:start + values.shape[-2], start:start + values.shape[-1]]


def soft_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Sum of the smaller opacity by that of the larger, of each of [N, R, R]; 1 where both are empty."""
    larger = np.maximum(one, other).sum((1, 2))
    return np.where(larger > 0, np.minimum(one, other).sum((1, 2)) / np.maximum(larger, 1e-9), 1)


def measures(drawn: Sequence[Drawn], views: dict[str, np.ndarray]) -> dict[str, tuple[int, np.ndarray]]:
    """Passes through the network and values [N] of each measure; more is surer.

    Args:
        drawn: Of the pictures.
        views: Masks [N, R, R] of the pictures in each of `VIEWS`, brought back.
    """
    mask = np.stack([one.mask for one in drawn])
    expected = np.array([expected_iou(opacity) for opacity in mask])
    agreement = {name: soft_iou(mask, view) for name, view in views.items()}
    mirrors = np.mean([agreement[name] for name in ("mirrored", "upside_down", "transposed")], axis=0)
    shifts = np.mean([agreement["shifted"], agreement["shifted_back"]], axis=0)
    entropy = (entr(mask) + entr(1 - mask)).sum((1, 2))
    found = {
        "expected IoU (`confidence`)": (1, expected),
        "entropy": (1, -entropy),
        "entropy by object pixels": (1, -entropy / ((mask >= THRESHOLD).sum((1, 2)) + 1)),
        "agreement with the mirrored picture": (2, agreement["mirrored"]),
        "agreement with three mirror images": (4, mirrors),
        "agreement with two shifts": (3, shifts),
        "agreement with all five": (6, (3 * mirrors + 2 * shifts) / 5),
        "expected IoU x three mirror images": (4, expected * mirrors)}
    if drawn[0].error is not None:
        errors = np.array([float(one.error or 0) for one in drawn])
        found["reconstruction error"] = (1, -errors)
        found["expected IoU less error / 100"] = (1, expected - errors / 100)
    return found


def true_ious(drawn: Sequence[Drawn], source: PictureSource, names: Sequence[str], teacher: MaskTeacher,
              letterbox: bool) -> np.ndarray:
    """IoU of each mask at its picture's own size, [N]."""
    tally, ious = Tally(), []
    for one, name in zip(drawn, progress(names, len(names), "Scored"), strict=True):
        picture = to_rgb(source.open(name))
        (truth,) = teacher([np.asarray(picture)], [name])
        ious.append(tally.add(enlarge(one, picture, sharp=True, letterbox=letterbox).mask, truth))
    return np.array(ious)


@click.command()
@click.option("--model", help="Run of invert.py", metavar="RUN", required=True)
@click.option("--data", help="Pictures that it has not seen", metavar="ZIP|DIR", required=True)
@click.option("--masks", help="Their true masks", metavar="ZIP|DIR", required=True)
@click.option("--num", help="Only the first pictures", metavar="INT", type=Whole(3))
@user_errors({PictureError: "--data", TeacherError: "--masks", ModelError: "--model"})
def main(model: str, data: str, masks: str, num: int | None) -> None:
    """Rank correlation (Spearman) of each measure with the true IoU; JSON on stdout, the table on stderr.

    \b
    Example:
    python -m benchmarks.confidence --model=runs/00001-distill --data=data/plants-lit-test.zip \\
        --masks=data/plants-lit-test-masks.zip
    """
    segmenter, source, teacher = Segmenter.load(model, "cpu"), PictureSource(data), MaskTeacher(masks)
    names = source.names[:num]
    squares = np.stack([shrink(source.open(name), segmenter.resolution, segmenter.letterbox) for name in names])
    drawn = draw(segmenter, squares, names)
    views = {}
    for view, (there, back) in VIEWS.items():
        seen = draw(segmenter, np.ascontiguousarray(there(squares)), names)
        views[view] = np.stack([back(one.mask) for one in seen])
    ious = true_ious(drawn, source, names, teacher, segmenter.letterbox)
    rows = {name: dict(passes=passes, spearman=round(float(spearmanr(values, ious).statistic), 4))
            for name, (passes, values) in measures(drawn, views).items()}
    lines = ["| measure | passes | Spearman |", "|---|---|---|",
             *(f"| {name} | {row['passes']} | {row['spearman']:.3f} |" for name, row in rows.items())]
    print(f"{len(names)} pictures, mean IoU {ious.mean():.3f}", *lines, sep="\n", file=sys.stderr)
    print(json.dumps(dict(model=model, kind=segmenter.kind, data=PurePosixPath(data).name, num=len(names),
                          iou=round(float(ious.mean()), 4), measures=rows, **provenance("benchmarks.confidence"))))


def draw(segmenter: Segmenter, squares: np.ndarray, names: Sequence[str], batch: int = 100) -> list[Drawn]:
    """What the network says of squares [N, 3, R, R], some at a time."""
    return [one for start in range(0, len(squares), batch)
            for one in segmenter.draw(squares[start:start + batch], names[start:start + batch])]


if __name__ == "__main__":
    main()
