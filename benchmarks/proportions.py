"""Pictures that are not square: squeezed to the network's square, or fitted into it in their own proportions."""

import json
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath

import click
import numpy as np

from benchmarks.support.provenance import provenance
from layered_plugin import Segmenter
from layered_plugin.command_line import Whole, user_errors
from layered_plugin.data.pictures import PictureSource, to_rgb
from layered_plugin.errors import ModelError, PictureError, TeacherError
from layered_plugin.evaluation.scoring import Tally
from layered_plugin.evaluation.teachers import MaskTeacher
from layered_plugin.progress import progress

WAYS = dict(squeezed=False, letterbox=True)


def ious(segmenter: Segmenter, source: PictureSource, names: Sequence[str], teacher: MaskTeacher) -> np.ndarray:
    """IoU of each picture's mask at its own size, [N]."""
    tally, found = Tally(), []
    for name in progress(names, len(names), "Pictures"):
        picture = np.asarray(to_rgb(source.open(name)))
        (truth,) = teacher([picture], [name])
        found.append(tally.add(segmenter([picture], [name])[0].mask, truth))
    return np.array(found)


@click.command()
@click.option("--model", help="Run of invert.py distill", metavar="RUN", required=True)
@click.option("--data", help="Pictures that it has not seen", metavar="ZIP|DIR", required=True)
@click.option("--masks", help="Their true masks", metavar="ZIP|DIR", required=True)
@click.option("--num", help="Only the first pictures", metavar="INT", type=Whole(2))
@user_errors({PictureError: "--data", TeacherError: "--masks", ModelError: "--model"})
def main(model: str, data: str, masks: str, num: int | None) -> None:
    """Mean IoU of both ways, and the difference with its standard error; JSON on stdout, the table on stderr.

    \b
    Example:
    python -m benchmarks.proportions --model=runs/clothing/00001-distill --data=data/clothing-test --masks=data/masks
    """
    segmenter, source, teacher = Segmenter.load(model, "cpu"), PictureSource(data), MaskTeacher(masks)
    if segmenter.kind != "distill":
        raise click.UsageError("--model must be distilled: encoders reconstruct squeezed pictures")
    names, scores = source.names[:num], {}
    for way, letterbox in WAYS.items():
        segmenter.letterbox = letterbox
        scores[way] = ious(segmenter, source, names, teacher)
    difference = scores["letterbox"] - scores["squeezed"]
    error = difference.std(ddof=1) / len(names)**0.5
    print("| squeezed | letterbox | difference |", "|---|---|---|",
          f"| {scores['squeezed'].mean():.3f} | {scores['letterbox'].mean():.3f} | "
          f"{difference.mean():+.3f} +- {error:.3f} |", sep="\n", file=sys.stderr)
    print(json.dumps(dict(model=model, data=PurePosixPath(data).name, num=len(names),
                          iou={way: round(float(values.mean()), 4) for way, values in scores.items()},
                          difference=round(float(difference.mean()), 4), standard_error=round(float(error), 4),
                          **provenance("benchmarks.proportions"))))


if __name__ == "__main__":
    main()
