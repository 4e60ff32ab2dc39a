"""Turn known data sets of real pictures into zips for training and scoring, straight from their archives.

Run as `python -m layered_plugin.dataset_tool`; docs/data.md goes on from there to the paper's tables.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from layered_plugin.data import cub_flowers, lsun_folders
from layered_plugin.data.downloads import Archive, Entry
from layered_plugin.data.masks import square_mask
from layered_plugin.data.picture_zip import PictureZipWriter, check_zips
from layered_plugin.data.pictures import FITS, square_picture
from layered_plugin.errors import PictureError
from layered_plugin.progress import progress
from layered_plugin.synthetic.composites import composites_command
from layered_plugin.synthetic.shapes import shapes_command

SETTINGS = dict(show_default=True, max_content_width=100)


def write_entries(entries: Iterable[Entry], total: int, dest: str, masks: str | None, size_px: int,
                  fit: str) -> tuple[int, list[str]]:
    """Write pictures, and masks under the same names; files appear only when complete.

    A picture that can't be read, or whose mask does not fit it, is left out and named on standard error.

    Args:
        entries: Pictures, with masks if `masks` is given.
        total: How many there are.
        dest: Zip for the pictures.
        masks: Zip for the masks, None = none.
        size_px: Side of the pictures.
        fit: One of `square.FITS`.

    Returns:
        Number of pictures written, and why each other one was left out.

    Raises:
        PictureError: Not one could be used; nothing is written.
        OSError: A zip can't be written.
    """
    written, share, left_out = 0, 0.0, []
    with contextlib.ExitStack() as stack:
        pictures = stack.enter_context(PictureZipWriter(dest))
        mask_writer = stack.enter_context(PictureZipWriter(masks)) if masks else None
        for entry in progress(entries, total, "pictures"):
            try:
                picture, mask = entry.load()
            except PictureError as err:
                left_out.append(str(err))
                print(f"left out {err}", file=sys.stderr)
                continue
            pictures.add(square_picture(picture, size_px, fit), entry.label)
            if mask_writer is not None and mask is not None:
                small = square_mask(mask, size_px, fit)
                mask_writer.add(small)
                share += float(small.mean()) / 255
            written += 1
        if written == 0:
            raise PictureError(f"none of {total} pictures can be used, the first because: {(left_out or ['?'])[0]}")
    about = f", object share {share / written:.3f}" if masks else ""
    print(f"{written} pictures{about}, {len(left_out)} left out", file=sys.stderr)
    return written, left_out


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What all sources have in common: where the pictures go, and how they become squares."""
    for option in reversed([
        click.option("--dest", help="Zip for the pictures", metavar="ZIP", required=True),
        click.option("--size", help="Side of the pictures, 1.125 x resolution", metavar="PX", default=72,
                     type=click.IntRange(min=8)),
        click.option("--fit", help="Squeeze to a square, or crop the middle", type=click.Choice(FITS),
                     default="squeeze"),
    ]):
        command = option(command)
    return command


def _result_folder(dest: str, masks: str | None, source: str) -> Path:
    """Check the options that name files; return the folder of the result, made if missing."""
    for option, path in check_zips({"--dest": dest, "--masks": masks}).items():
        if Path(path).resolve() == Path(source).resolve():
            raise click.UsageError(f"{option} must differ from --source, got {path} for both")
    if not Path(source).exists():
        raise click.ClickException(f"--source: no such file or folder: {source}")
    try:
        Path(dest).parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise click.ClickException(f"--dest: cannot be written ({err})") from err
    return Path(dest).parent


@contextlib.contextmanager
def _user_errors():
    """Say in one line what a user can mend."""
    try:
        yield
    except PictureError as err:
        raise click.ClickException(f"--source: {err}") from err
    except ImportError as err:
        raise click.ClickException(f"LSUN needs the lmdb library: pip install 'layered-plugin[lsun]' ({err})") from err
    except OSError as err:
        raise click.ClickException(f"--dest, --masks: cannot be written ({err})") from err


@click.group(context_settings=SETTINGS)
def main() -> None:
    """Make a data set: a zip of squares with `dataset.json`, and a zip of masks where there are any.

    \b
    shapes      drawn objects, with true masks
    composites  cut-outs pasted on photographs, with true masks
    lsun        LSUN's databases (lmdb)
    folders     any tree with a folder for each class
    cub         CUB-200-2011, with masks
    flowers     Flowers-102, with masks

    Masks are for scoring only; training a generator never reads them. Zips appear when they are complete.
    """


@main.command(context_settings=SETTINGS)
@click.option("--source", help="Folder with data.mdb, or its zip", metavar="DIR|ZIP", required=True)
@output_options
@click.option("--num", help="Only the first entries of the database", metavar="INT", default=100000,
              type=click.IntRange(min=1))
def lsun(source: str, dest: str, size: int, fit: str, num: int) -> None:
    """LSUN: the first pictures of a category, in the order of the database, as in the paper.

    A zip is unpacked beside --dest first and removed afterwards, which takes as much room as the database.

    \b
    Example:
    python -m layered_plugin.dataset_tool lsun --source=downloads/car --dest=data/car-64.zip --size=72
    """
    temp_dir = _result_folder(dest, None, source)
    with _user_errors(), lsun_folders.lsun(Path(source), num, temp_dir) as (total, entries):
        write_entries(entries, total, dest, None, size, fit)


@main.command(context_settings=SETTINGS)
@click.option("--source", help="Folder with a folder for each class", metavar="DIR|ZIP|TAR", required=True)
@output_options
@click.option("--class", "class_name", help="Take this class alone  [default: all]", metavar="NAME")
def folders(source: str, dest: str, size: int, fit: str, class_name: str | None) -> None:
    """A folder for each class: pictures labelled by the place of their folder in the order of names.

    With --class only the pictures of that folder are taken, without labels: what training without labels needs.

    \b
    Examples:
    python -m layered_plugin.dataset_tool folders --source=downloads/animals --dest=data/animals.zip
    python -m layered_plugin.dataset_tool folders --source=downloads/animals.tar.gz --class=horse --dest=data/horse.zip
    """
    temp_dir = _result_folder(dest, None, source)
    with _user_errors(), Archive(source, temp_dir) as archive:
        classes, entries = lsun_folders.class_folders(archive, class_name)
        numbered = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
        print(f"class {class_name}" if class_name else f"labels: {numbered}", file=sys.stderr)
        write_entries(entries, len(entries), dest, None, size, fit)


@main.command(context_settings=SETTINGS)
@click.option("--source", help="Folder with the downloads", metavar="DIR", required=True)
@output_options
@click.option("--masks", help="Zip for the masks, from segmentations.tgz", metavar="ZIP")
@click.option("--split", help="Pictures to take", type=click.Choice(["train", "test", "all"]), default="all")
@click.option("--crop-box", help="Crop squares about the bounding boxes", is_flag=True)
@click.option("--margin", help="Space about the box, of its longer side", metavar="FRAC", default=0.25,
              type=click.FloatRange(0, 2))
@click.pass_context
def cub(ctx: click.Context, source: str, dest: str, size: int, fit: str, masks: str | None, split: str,
        crop_box: bool, margin: float) -> None:
    """CUB-200-2011: birds with masks, labelled by species.

    --source holds CUB_200_2011.tgz and, for --masks, segmentations.tgz, or what they unpack to. An archive is
    unpacked into a temporary file beside --dest first. --crop-box cuts the picture down to a square about the bird's
    bounding box, moved into the picture where it reaches over the edge; along an axis on which the picture is
    smaller than the square it is taken whole, and --fit makes a square of the rest. Boxes were drawn by people: with
    --crop-box training is no longer free of annotations.

    \b
    Examples:
    python -m layered_plugin.dataset_tool cub --source=downloads --dest=data/cub-train.zip --split=train
    python -m layered_plugin.dataset_tool cub --source=downloads --dest=data/cub-test.zip \\
        --masks=data/cub-test-masks.zip --split=test --crop-box
    """
    if not crop_box and ctx.get_parameter_source("margin") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--margin needs --crop-box")
    temp_dir = _result_folder(dest, masks, source)
    with _user_errors(), cub_flowers.cub(Path(source), temp_dir, split, masks is not None,
                                               margin if crop_box else None) as entries:
        write_entries(entries, len(entries), dest, masks, size, fit)


@main.command(context_settings=SETTINGS)
@click.option("--source", help="Folder with the downloads", metavar="DIR", required=True)
@output_options
@click.option("--masks", help="Zip for the masks, from 102segmentations.tgz", metavar="ZIP")
@click.option("--split", help="Pictures to take", type=click.Choice([*cub_flowers.FLOWER_SPLITS, "all"]),
              default="all")
def flowers(source: str, dest: str, size: int, fit: str, masks: str | None, split: str) -> None:
    """Flowers-102: flowers with masks, labelled by species.

    --source holds 102flowers.tgz, imagelabels.mat, setid.mat and, for --masks, 102segmentations.tgz, or what the
    archives unpack to. An archive is unpacked into a temporary file beside --dest first. Its own split has 1,020
    pictures to train, 1,020 to validate and 6,149 to test.

    \b
    Examples:
    python -m layered_plugin.dataset_tool flowers --source=downloads --dest=data/flowers-test.zip \\
        --masks=data/flowers-test-masks.zip --split=test
    python -m layered_plugin.dataset_tool flowers --source=downloads --dest=data/flowers.zip --size=144 --fit=crop
    """
    temp_dir = _result_folder(dest, masks, source)
    with _user_errors(), cub_flowers.flowers(Path(source), temp_dir, split, masks is not None) as entries:
        write_entries(entries, len(entries), dest, masks, size, fit)


main.add_command(shapes_command)
main.add_command(composites_command)

if __name__ == "__main__":
    main()
