"""Options that the commands of dataset_tool share: files to be written, squares, ranges; and what a user can mend."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click
import PIL.ImageColor

from layered_plugin import command_line
from layered_plugin.command_line import SEED, Number, Whole, several_options, writing
from layered_plugin.data.pictures import FITS
from layered_plugin.errors import CrowdedError, ImpossibleRecipeError, PictureError
from layered_plugin.synthetic.occlusion import MAX_OBJECTS


class Range(click.ParamType):
    """Two numbers within bounds, smaller one first, as `0.45,0.75`; one number stands for both."""

    name = "range"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        try:
            parts = [float(part) for part in str(value).split(",")]
        except ValueError:
            parts = []
        low, high = parts * 2 if len(parts) == 1 else parts if len(parts) == 2 else (1.0, 0.0)
        if not self.low <= low <= high <= self.high:
            self.fail(f"must be MIN,MAX within {self.low:g} and {self.high:g}, got {value}", param, ctx)
        return low, high


def read_color(_ctx: click.Context, param: click.Parameter, text: str) -> str:
    """A colour by a name or number that Pillow knows, such as gray or #808080."""
    try:
        PIL.ImageColor.getrgb(text)
    except ValueError as err:
        raise click.BadParameter(f"{text!r} is no colour such as gray or #808080", param=param) from err
    return text


dest_option = click.option("--dest", help="Zip for the pictures", metavar="ZIP", required=True)

square_options = several_options(
    dest_option,
    click.option("--size", help="Side of the pictures, 1.125 x resolution", metavar="PX", default=72,
                 type=Whole(8, 8192)),
    click.option("--fit", help="Squeeze to a square, or crop the middle", type=click.Choice(FITS), default="squeeze"))

drawing_options = several_options(
    click.option("--labels", help="Zip for the label pictures", metavar="ZIP"),
    click.option("--objects", help="Objects per picture (K)", type=Whole(1, MAX_OBJECTS), default=1),
    click.option("--num", help="Number of pictures", type=Whole(min=1), default=20000),
    click.option("--size", help="Side of the pictures", metavar="PX", type=Whole(8, 8192), default=36),
    click.option("--seed", help="Random seed", type=SEED, default=0),
    click.option("--jobs", help="Worker processes", type=Whole(min=1), default=1))

# What of a Recipe a preset sets and an option replaces.
recipe_options = several_options(
    click.option("--scale", help="Largest side of the cut-out", metavar="FRAC,FRAC", type=Range(0.01, 2)),
    click.option("--rotation", help="Largest angle to either side", metavar="DEG", type=Number(0, 180)),
    click.option("--flip", help="Probability of mirroring", metavar="FRAC", type=Number(0, 1)),
    click.option("--jitter", help="Largest displacement", metavar="FRAC", type=Number(0, 0.5)),
    click.option("--crop", help="Crop of the photograph's shorter side", metavar="FRAC,FRAC", type=Range(0.01, 1)),
    click.option("--min-coverage", help="Smallest object share", metavar="FRAC", type=Number(0, 1)),
    click.option("--shadow-blur", help="Blur of the contact shadow", metavar="FRAC", type=Number(0.005, 0.5)),
    click.option("--shadow-offset", help="Shadow's displacement down", metavar="FRAC", type=Number(-0.5, 0.5)),
    click.option("--shadow-strength", help="Light the shadow takes", metavar="FRAC", type=Number(0, 1)),
    click.option("--tint", help="Factor of each colour channel", metavar="X,X", type=Range(0, 4)),
    click.option("--light", help="Change of light from edge to edge", metavar="FRAC", type=Number(0, 1.5)))


def check_zips(paths: Mapping[str, str | None]) -> dict[str, str]:
    """Those options of a command that name zips to be written, and are given; None = not given.

    click.UsageError if a path does not end in .zip, or two are the same.
    """
    given: dict[str, str] = {}
    for option, path in paths.items():
        if path is None:
            continue
        if not path.lower().endswith(".zip"):
            raise click.UsageError(f"{option} must end in .zip, got {path}")
        for other in given:
            if Path(given[other]).resolve() == Path(path).resolve():
                raise click.UsageError(f"{option} must differ from {other}, got {path} for both")
        given[option] = path
    return given


def result_folder(source: str, dest: str, masks: str | None = None) -> Path:
    """Check the options of a command that reads --source; return the folder of its result, made if missing."""
    for option, path in check_zips({"--dest": dest, "--masks": masks}).items():
        if Path(path).resolve() == Path(source).resolve():
            raise click.UsageError(f"{option} must differ from --source, got {path} for both")
    if not Path(source).exists():
        raise click.ClickException(f"--source: no such file or folder: {source}")
    with user_errors(["--dest"]):
        Path(dest).parent.mkdir(parents=True, exist_ok=True)
    return Path(dest).parent


@contextlib.contextmanager
def user_errors(written: Iterable[str] = (), source: str = "--source") -> Iterator[None]:
    """Say in one line what a user can mend, with the option of files `written`, or of the `source` that is read."""
    with command_line.user_errors({PictureError: source, ImpossibleRecipeError: "--min-coverage",
                                   CrowdedError: "--objects, --scale"}), writing(", ".join(written)):
        yield
