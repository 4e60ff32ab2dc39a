"""Options that the commands of eval.py share, and what they stand for: teachers, baselines, runs with their records."""

import errno
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from layered_plugin import command_line, errors, runs
from layered_plugin.command_line import Number, Whole, several_options
from layered_plugin.data.masks import Ranges, parse_values
from layered_plugin.evaluation import output
from layered_plugin.evaluation.baselines import BASELINES
from layered_plugin.evaluation.judge import UNetTeacher
from layered_plugin.evaluation.onnx_teacher import MEAN, SCALE, OnnxTeacher
from layered_plugin.evaluation.teachers import OBJECTS, MaskRCNNTeacher, Teacher, coco_label

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def read_channels(ctx: click.Context, param: click.Parameter, text: str) -> tuple[float, ...]:
    """One number for all channels, or three with commas for red, green and blue; a scale may not be 0."""
    numbers = [click.FLOAT(part, param, ctx) for part in text.split(",")]
    is_scale = param.name == "onnx_scale"
    if len(numbers) not in (1, 3) or not np.isfinite(numbers).all() or (is_scale and 0 in numbers):
        raise click.BadParameter(f"{text!r} is neither one number nor three with commas between them"
                                 + (", none of them 0" if is_scale else ""), ctx, param)
    return tuple(numbers)


def read_shares(ctx: click.Context, param: click.Parameter, text: str) -> tuple[float, ...]:
    """Shares of the picture that rise, with commas between them; or none."""
    shares = [] if text == "none" else [click.FLOAT(part, param, ctx) for part in text.split(",")]
    if not all(low < high for low, high in itertools.pairwise([0, *shares, 1])):
        raise click.BadParameter(f"{text!r} is neither none nor shares that rise between 0 and 1, such as 0.08,0.15",
                                 ctx, param)
    return tuple(shares)


def read_mask_values(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Ranges | None:
    """Resolve ``--mask-values``; click.UsageError if it is no list of numbers and ranges."""
    with user_errors():
        return None if text is None else parse_values(text)


TEACHERS = ("maskrcnn", "unet", "onnx")

# What is object in files of true masks.
mask_values_option = click.option("--mask-values", help="Mask values that are object  [default: plain]",
                                  metavar="LIST", callback=read_mask_values)

# What describes a learnt teacher.
teacher_options = several_options(
    click.option("--weights", "--teacher-file", "weights", help="Weights of the teacher", metavar="FILE"),
    click.option("--class", "class_name", help="COCO class for Mask R-CNN", metavar="NAME"),
    click.option("--score-thresh", help="Least score of a detection", type=Number(0, 1), default=0.5, metavar="FRAC"),
    click.option("--objects", help="All detected objects, or the largest", type=click.Choice(OBJECTS), default="union"),
    click.option("--onnx-size", help="Side of what an ONNX network sees  [default: its own, or 1024]",
                 type=Whole(8, 8192), metavar="PX"),
    click.option("--onnx-mean", help="Taken from its input's levels, 0 to 255", callback=read_channels,
                 default=",".join(f"{value:g}" for value in MEAN), metavar="FLOAT[,FLOAT,FLOAT]"),
    click.option("--onnx-scale", help="What they are then divided by", callback=read_channels,
                 default=",".join(f"{value:g}" for value in SCALE), metavar="FLOAT[,FLOAT,FLOAT]"),
    click.option("--onnx-cache", help="Folder for its masks  [default: ~/.cache/dnnlib]", metavar="DIR"))


# Which teacher some of them describe.
TEACHER_OF = dict(class_name="maskrcnn", score_thresh="maskrcnn", objects="maskrcnn", onnx_size="onnx",
                  onnx_mean="onnx", onnx_scale="onnx", onnx_cache="onnx")


def check_teacher_options(kind: str | None) -> None:
    """Refuse what describes another teacher than `kind`; None = there is none. click.UsageError names the option."""
    ctx = click.get_current_context()
    for param in ctx.command.params:
        name = str(param.name)
        fitting = TEACHER_OF.get(name, kind)
        if fitting != kind and ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{param.opts[0]} is for --teacher={fitting}; leave it out, or choose that teacher")


def make_teacher(kind: str, weights: str | None, class_name: str | None, score_thresh: float, objects: str,
                 onnx_size: int | None, onnx_mean: tuple[float, ...], onnx_scale: tuple[float, ...],
                 onnx_cache: str | None, size_px: int | None, device: str) -> tuple[Teacher, dict[str, Any]]:
    """Load a learnt teacher.

    Args:
        kind: Out of ``TEACHERS``.
        weights, class_name, score_thresh, objects, onnx_size, onnx_mean, onnx_scale, onnx_cache: Values of the options.
        size_px: Side of the pictures that a U-Net is shown; None = that of those it was trained on.
        device: cpu, cuda or mps.

    Returns:
        The teacher, and its description for the record.

    Raises:
        click.UsageError: A class that COCO does not have, or an option that is missing or does not fit.
        click.ClickException: The weights are missing or damaged.
    """
    if kind == "unet":
        if weights is None:
            raise click.UsageError("--teacher=unet needs --weights, a judge of eval.py judge (docs/data.md)")
        if size_px is not None and size_px % 4:
            raise click.UsageError(f"--detector-size must be a multiple of 4 for --teacher=unet, got {size_px}")
        with user_errors():
            judge = UNetTeacher(weights, size_px, device)
        return judge, dict(kind=kind, weights=weights, size_px=judge.size_px)
    if kind == "onnx":
        if weights is None:
            raise click.UsageError("--teacher=onnx needs --weights, an ONNX file of IS-Net, U2-Net, BiRefNet or the "
                                   "like (docs/data.md)")
        with user_errors(), command_line.writing("--onnx-cache"):
            network = OnnxTeacher(weights, onnx_size, onnx_mean, onnx_scale, onnx_cache)
        return network, dict(kind=kind, weights=weights, size_px=network.size_px, mean=list(onnx_mean),
                             scale=list(onnx_scale))
    if class_name is None:
        raise click.UsageError("--teacher=maskrcnn needs --class, for example --class=car")
    with errors.raising(click.UsageError, "--class", errors.TeacherError):
        coco_label(class_name)
    with user_errors():
        teacher = MaskRCNNTeacher(class_name, weights, score_thresh, objects, device)
    return teacher, dict(kind=kind, weights=weights, class_name=class_name, score_thresh=score_thresh, objects=objects)


def choose_baselines(text: str) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Resolve ``--baselines``.

    Args:
        text: none, all, installed (those whose libraries are there), or names with commas.

    Raises:
        click.UsageError: A name is unknown.
        click.ClickException: A library is missing; the text names the extra.
    """
    if text == "none":
        return {}
    names = list(BASELINES) if text in ("all", "installed") else text.split(",")
    chosen = {}
    for name in names:
        if name not in BASELINES:
            raise click.UsageError(f"--baselines must be none, all, installed or among {', '.join(BASELINES)}, "
                                   f"got {name!r}")
        try:  # Before the models have run for an hour.
            BASELINES[name](np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
        except errors.MissingLibraryError as err:
            if text != "installed":
                raise click.ClickException(f"--baselines: {err}") from err
            click.echo(f"Without the baseline {name}: {err}", err=True)
            continue
        chosen[name] = BASELINES[name]
    return chosen


def user_errors(data: str = "--data", teacher: str = "--weights",
                model: str = "--model") -> AbstractContextManager[None]:
    """Say in one line what a user can mend, with the name of the option that pictures, truth or models come from."""
    return command_line.user_errors({errors.PictureError: data, errors.MaskError: teacher, errors.ModelError: model,
                                     errors.CheckpointError: "--network", errors.FidelityError: "--fid"})


def record_folder(path: str | Path, option: str) -> Path | None:
    """Folder of the run that is scored, for its record; None if it is none, or with a warning if it is read-only."""
    folder = runs.run_folder(path)
    if folder is not None:
        with keeping(option, folder):
            output.check_writable(folder)
            return folder
    return None


@contextmanager
def keeping(option: str, folder: Path) -> Iterator[None]:
    """As ``writing``, but a read-only folder is a warning: the record is on standard output as well."""
    with command_line.writing(option, folder):
        try:
            yield
        except OSError as err:
            if err.errno not in READ_ONLY:
                raise
            click.echo(f"WARNING: {option}: can't write to {folder}: {err.strerror}; the record is kept on standard "
                       "output alone", err=True)
