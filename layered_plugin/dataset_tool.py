"""Make data sets: drawn, put together, or out of known data sets of real pictures as they are downloaded.

Run as `python -m layered_plugin.dataset_tool`; docs/data.md goes on from there to the paper's tables.
"""

import math
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import click

from layered_plugin import dataset_options as options
from layered_plugin.command_line import SETTINGS, CheckedGroup, Number, Whole
from layered_plugin.data import cub_flowers, lsun_folders
from layered_plugin.data.alpha import alpha_pictures
from layered_plugin.data.downloads import Archive, write_entries
from layered_plugin.synthetic.collage import PRESETS, SUPERSAMPLE, Recipe, draw_composite
from layered_plugin.synthetic.composites import hold_out, write_composites
from layered_plugin.synthetic.drawing import draw_all
from layered_plugin.synthetic.material import load_all, prepare_background, prepare_cutout
from layered_plugin.synthetic.shapes import write_shapes


@click.group(cls=CheckedGroup, context_settings=SETTINGS)
def main() -> None:
    """Make a data set: a zip of squares with `dataset.json`, and a zip of masks where there are any.

    Masks are for scoring only; training a generator never reads them. Zips appear when they are complete.
    """


@main.command(short_help="Drawn objects, with true masks")
@options.dest_option
@click.option("--masks", help="Zip for the true masks", metavar="ZIP")
@options.drawing_options
def shapes(dest: str, masks: str | None, labels: str | None, objects: int, num: int, size: int, seed: int,
           jobs: int) -> None:
    """The built-in data set `shapes`: coloured objects in textured scenes, and their exact masks.

    A mask is of all objects of a picture together; a label picture has 0 = background, 1 to K = the visible object.
    The bytes are the same for any --jobs.

    \b
    Examples:
    python -m layered_plugin.dataset_tool shapes --dest=data/shapes.zip --masks=data/shapes-masks.zip
    python -m layered_plugin.dataset_tool shapes --num=2000 --seed=1 \\
        --dest=data/shapes-test.zip --masks=data/shapes-test-masks.zip
    python -m layered_plugin.dataset_tool shapes --objects=2 --dest=data/shapes2.zip --labels=data/shapes2-labels.zip
    """
    written = options.check_zips({"--dest": dest, "--masks": masks, "--labels": labels})
    with options.user_errors(written):
        share = write_shapes(dict(picture=dest, mask=masks, labels=labels), num, size, seed, objects, jobs)
    print(f"{num} pictures, object share {share:.3f}", file=sys.stderr)


@main.command(short_help="Cut-outs on photographs, with true masks")
@click.option("--cutouts", help="Folder of RGBA cut-outs (repeatable)", metavar="DIR", multiple=True, required=True)
@click.option("--cutouts-exclude", help="Cut-outs to leave out (repeatable)", metavar="PATTERN", multiple=True)
@click.option("--backgrounds", help="Folder of photographs (repeatable)", metavar="DIR", multiple=True, required=True)
@click.option("--backgrounds-exclude", help="Photographs to leave out (repeatable)", metavar="PATTERN", multiple=True)
@options.dest_option
@click.option("--masks", help="Zip for the true masks", metavar="ZIP", required=True)
@options.drawing_options
@click.option("--grounds", help="Zip for the pictures without objects", metavar="ZIP")
@click.option("--manifest", help="Records, one a picture  [default: DEST-manifest.jsonl]", metavar="JSONL")
@click.option("--holdout", help="Keep every n-th cut-out for testing", type=Whole(min=2))
@click.option("--split", help="Cut-outs to use with --holdout", type=click.Choice(["train", "test"]), default="train")
@click.option("--preset", help="Values of the options below", type=click.Choice(list(PRESETS)), default="plants")
@options.recipe_options
def composites(
    cutouts: tuple[str, ...], cutouts_exclude: tuple[str, ...], backgrounds: tuple[str, ...],
    backgrounds_exclude: tuple[str, ...], dest: str, masks: str, labels: str | None, objects: int, num: int, size: int,
    seed: int, grounds: str | None, manifest: str | None, jobs: int, holdout: int | None, split: str, preset: str,
    **recipe_values: float | tuple[float, float] | None,
) -> None:
    """Pictures with exact masks from RGBA cut-outs and background photographs.

    Folders are searched with their subfolders. Patterns are shell patterns on the path within the folder. Options
    that are not given take the preset's value; the same options and files give the same bytes for any --jobs.
    A mask is of all objects of a picture together; a label picture has 0 = background, 1 to K = the visible object.
    Grounds keep the shadows: what a generator's background should look like, behind the object too.

    \b
    Example:
    python -m layered_plugin.dataset_tool composites --cutouts=/usr/share/tuxpaint/stamps/food/fruit \\
        --cutouts-exclude='cartoon/*' --backgrounds=/usr/share/backgrounds/mate/nature \\
        --dest=data/fruit.zip --masks=data/fruit-masks.zip --preset=plants-lit
    """
    written = options.check_zips({"--dest": dest, "--masks": masks, "--labels": labels, "--grounds": grounds})
    given = {field.name: value for field in fields(Recipe) if (value := recipe_values[field.name]) is not None}
    recipe = replace(PRESETS[preset].for_objects(objects), **given)  # type: ignore[arg-type]
    if recipe.shadow_strength > 0 and recipe.shadow_blur == 0:
        raise click.UsageError(f"--shadow-strength needs --shadow-blur above 0, got {recipe.shadow_strength} and 0")
    with options.user_errors(source="--cutouts"):
        objects_at_hand = load_all("--cutouts", cutouts, cutouts_exclude, prepare_cutout,
                                   math.ceil(recipe.scale[1] * size * SUPERSAMPLE))
    # Half again as many pixels as the smallest crop needs, so that none is magnified.
    with options.user_errors(source="--backgrounds"):
        scenes = load_all("--backgrounds", backgrounds, backgrounds_exclude, prepare_background,
                          math.ceil(1.5 * size / recipe.crop[0]))
    chosen = hold_out(objects_at_hand, holdout, split)
    if not chosen:
        raise click.UsageError(f"--holdout leaves no cut-out for --split={split}, got {holdout} of "
                               f"{len(objects_at_hand)}")
    draw = partial(draw_composite, chosen, scenes, recipe, size, num_objects=objects)
    zips = dict(picture=dest, mask=masks, labels=labels, ground=grounds)
    with options.user_errors([*written, "--manifest"]):
        share = write_composites(draw_all(draw, num, seed, jobs), num, zips,
                                 manifest or f"{Path(dest).with_suffix('')}-manifest.jsonl")
    print(f"{num} pictures, object share {share:.3f}", file=sys.stderr)


@main.command(short_help="LSUN's databases (lmdb)")
@click.option("--source", help="Folder with data.mdb, or its zip", metavar="DIR|ZIP", required=True)
@options.square_options
@click.option("--num", help="Only the first entries of the database", default=100000, type=Whole(min=1))
def lsun(source: str, dest: str, size: int, fit: str, num: int) -> None:
    """LSUN: the first pictures of a category, in the order of the database, as in the paper.

    A zip is unpacked beside --dest first and removed afterwards, which takes as much room as the database.

    \b
    Example:
    python -m layered_plugin.dataset_tool lsun --source=downloads/car --dest=data/car-64.zip --size=72
    """
    temp_dir = options.result_folder(source, dest)
    with options.user_errors(["--dest"]), lsun_folders.lsun(Path(source), num, temp_dir) as (total, entries):
        write_entries(entries, total, dest, None, size, fit)


@main.command(short_help="Any tree with a folder for each class")
@click.option("--source", help="Folder with a folder for each class", metavar="DIR|ZIP|TAR", required=True)
@options.square_options
@click.option("--class", "wanted", help="Take these alone, repeatable  [default: all]", metavar="NAME,...",
              multiple=True)
def folders(source: str, dest: str, size: int, fit: str, wanted: tuple[str, ...]) -> None:
    """A folder for each class: pictures labelled by the place of their folder in the order of names.

    With --class only the pictures of those folders are taken, labelled by their place among these; of a single class
    without labels. Training takes labels with --cond=1 only.

    \b
    Examples:
    python -m layered_plugin.dataset_tool folders --source=downloads/animals --dest=data/animals.zip
    python -m layered_plugin.dataset_tool folders --source=downloads/animals.tar.gz --class=horse --dest=data/horse.zip
    python -m layered_plugin.dataset_tool folders --source=downloads/clothing/train --size=36 \\
        --class=t-shirt,longsleeve,shirt,outwear,dress --dest=data/clothing.zip
    """
    temp_dir = options.result_folder(source, dest)
    with options.user_errors(["--dest"]), Archive(source, temp_dir) as archive:
        classes, entries = lsun_folders.class_folders(archive, wanted)
        labelled = entries[0].label is not None
        print("labels: " + ", ".join(f"{number} {name}" for number, name in enumerate(classes)) if labelled
              else f"class {classes[0]}", file=sys.stderr)
        write_entries(entries, len(entries), dest, None, size, fit)


@main.command(short_help="Pictures with transparency, as masks")
@click.option("--source", help="Pictures with transparency", metavar="DIR|ZIP|TAR", required=True)
@options.square_options
@click.option("--masks", help="Zip for the masks, what is opaque", metavar="ZIP")
@click.option("--backdrop", help="Colour behind what is transparent", metavar="COLOR", default="white",
              callback=options.read_color)
def alpha(source: str, dest: str, size: int, fit: str, masks: str | None, backdrop: str) -> None:
    """Cut-outs and mattes: put on a colour, so that training sees no hidden ones; their opacity as true masks.

    Every command that is given such pictures as they are puts them on white.

    \b
    Example:
    python -m layered_plugin.dataset_tool alpha --source=my-cut-outs --dest=data/things.zip \\
        --masks=data/things-masks.zip --backdrop=gray
    """
    temp_dir = options.result_folder(source, dest, masks)
    with options.user_errors(["--dest", "--masks"]), Archive(source, temp_dir) as archive:
        entries = alpha_pictures(archive, backdrop)
        write_entries(entries, len(entries), dest, masks, size, fit)


@main.command(short_help="CUB-200-2011, with masks")
@click.option("--source", help="Folder with the downloads", metavar="DIR", required=True)
@options.square_options
@click.option("--masks", help="Zip for the masks, from segmentations.tgz", metavar="ZIP")
@click.option("--split", help="Pictures to take", type=click.Choice(["train", "test", "all"]), default="all")
@click.option("--crop-box", help="Crop squares about the bounding boxes", is_flag=True)
@click.option("--margin", help="Space about the box, of its longer side", metavar="FRAC", default=0.25,
              type=Number(0, 2))
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
    temp_dir = options.result_folder(source, dest, masks)
    box_margin = margin if crop_box else None
    birds = cub_flowers.cub(Path(source), temp_dir, split, masks is not None, box_margin)
    with options.user_errors(["--dest", "--masks"]), birds as entries:
        write_entries(entries, len(entries), dest, masks, size, fit)


@main.command(short_help="Flowers-102, with masks")
@click.option("--source", help="Folder with the downloads", metavar="DIR", required=True)
@options.square_options
@click.option("--masks", help="Zip for the masks, from 102segmentations.tgz", metavar="ZIP")
@click.option("--split", help="Pictures to take", type=click.Choice([*cub_flowers.FLOWER_SPLITS, "all"]), default="all")
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
    temp_dir = options.result_folder(source, dest, masks)
    blossoms = cub_flowers.flowers(Path(source), temp_dir, split, masks is not None)
    with options.user_errors(["--dest", "--masks"]), blossoms as entries:
        write_entries(entries, len(entries), dest, masks, size, fit)


if __name__ == "__main__":
    main()
