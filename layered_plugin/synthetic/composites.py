"""Benchmark data sets with exact mattes: RGBA cut-outs put over background photographs.

Run as `python -m layered_plugin.dataset_tool composites`; docs/data.md has the commands of `plants` and `plants-lit`.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from layered_plugin.data.picture_zip import PictureZipWriter, check_zips
from layered_plugin.errors import CrowdedError, ImpossibleRecipeError, PictureError
from layered_plugin.progress import progress
from layered_plugin.synthetic.collage import PRESETS, SUPERSAMPLE, Composite, Recipe, draw_composite
from layered_plugin.synthetic.material import Source, find_files, load, prepare_background, prepare_cutout
from layered_plugin.synthetic.occlusion import MAX_OBJECTS

CHUNK = 64  # pictures a worker draws at a time


@dataclass(frozen=True)
class Job:
    """All that a worker needs; every picture depends on it and its own number alone."""

    cutouts: list[Source]
    backgrounds: list[Source]
    recipe: Recipe
    size: int
    seed: int
    num_objects: int = 1

    def draw(self, numbers: range) -> list[Composite]:
        """Draw the pictures of the given numbers."""
        return [
            draw_composite(self.cutouts, self.backgrounds, self.recipe, self.size,
                           np.random.default_rng([self.seed, number]), self.num_objects)
            for number in numbers
        ]


_job: Job | None = None  # set once in each worker, so that the material travels once


def _start_worker(job: Job) -> None:
    global _job
    _job = job


def _draw_in_worker(numbers: range) -> list[Composite]:
    if _job is None:
        raise RuntimeError("worker was not started through draw_all")
    return _job.draw(numbers)


def draw_all(job: Job, num: int, jobs: int = 1) -> Iterator[Composite]:
    """Draw a whole data set; the pictures do not depend on the number of processes.

    Args:
        job: Material, recipe, size and seed.
        num: Number of pictures.
        jobs: Worker processes, 1 = draw in this one.

    Returns:
        Pictures in order.
    """
    chunks = [range(first, min(first + CHUNK, num)) for first in range(0, num, CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            yield from job.draw(chunk)
        return
    # Fresh processes: forking one that runs threads may hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (job,)) as pool:
        for composites in pool.map(_draw_in_worker, chunks):
            yield from composites


def write_dataset(composites: Iterator[Composite], num: int, zips: Mapping[str, str], manifest: str) -> float:
    """Write pictures, masks and manifest; all appear only when complete.

    Args:
        composites: Pictures.
        num: How many there are.
        zips: Field of Composite to the zip for it; `picture` among them.
        manifest: File of one JSON record a picture.

    Returns:
        Mean object share.
    """
    share = 0.0
    Path(manifest).parent.mkdir(parents=True, exist_ok=True)
    partial = Path(f"{manifest}.{os.getpid()}.part")
    try:
        with ExitStack() as stack:
            writers = {field: stack.enter_context(PictureZipWriter(path)) for field, path in zips.items()}
            records = stack.enter_context(open(partial, "w"))
            for composite in progress(composites, num, "composites"):
                names = {field: writer.add(getattr(composite, field)) for field, writer in writers.items()}
                records.write(json.dumps({"picture": names["picture"], **composite.record}) + "\n")
                share += float(composite.mask.mean()) / 255.0
        os.replace(partial, manifest)
    finally:
        partial.unlink(missing_ok=True)
    return share / num


class Range(click.ParamType):
    """Two numbers within bounds, smaller one first, as `0.45,0.75`; one number stands for both."""

    name = "range"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        try:
            parts = [float(part) for part in str(value).split(",")]
        except ValueError:
            parts = []
        first, last = (parts * 2)[:2] if len(parts) == 1 else (parts if len(parts) == 2 else (math.nan, math.nan))
        if not self.low <= first <= last <= self.high:
            self.fail(f"must be MIN,MAX within {self.low:g} and {self.high:g}, got {value}", param, ctx)
        return first, last


def _load_or_fail(
    option: str, folders: tuple[str, ...], exclude: tuple[str, ...],
    prepare: Callable[[Image.Image, int], Image.Image], side_px: int,
) -> list[Source]:
    """Load the material of one option; name files left out on standard error, stop if none is left."""
    try:
        files = find_files(folders, exclude)
    except PictureError as error:
        raise click.ClickException(f"{option}: {error}") from error
    loaded, left_out = load(files, prepare, side_px)
    for line in left_out:
        print(f"{option}: left out {line}", file=sys.stderr)
    if not loaded:
        raise click.ClickException(
            f"{option}: no usable picture in {', '.join(folders)} ({len(files)} files found, {len(left_out)} left out)"
        )
    print(f"{option}: {len(loaded)} pictures, {len(left_out)} left out", file=sys.stderr)
    return loaded


def _hold_out(cutouts: list[Source], every: int | None, split: str) -> list[Source]:
    """Keep every n-th cut-out for the test split, the others for the training split."""
    if every is None:
        return cutouts
    kept = [cutout for index, cutout in enumerate(cutouts) if (index % every == every - 1) == (split == "test")]
    if not kept:
        raise click.UsageError(f"--holdout leaves no cut-out for --split={split}, got {every} of {len(cutouts)}")
    return kept


@click.command("composites")
@click.option("--cutouts", help="Folder of RGBA cut-outs (repeatable)", metavar="DIR", multiple=True, required=True)
@click.option("--cutouts-exclude", help="Cut-outs to leave out (repeatable)", metavar="PATTERN", multiple=True)
@click.option("--backgrounds", help="Folder of photographs (repeatable)", metavar="DIR", multiple=True, required=True)
@click.option("--backgrounds-exclude", help="Photographs to leave out (repeatable)", metavar="PATTERN", multiple=True)
@click.option("--dest", help="Zip for the pictures", metavar="ZIP", required=True)
@click.option("--masks", help="Zip for the true masks", metavar="ZIP", required=True)
@click.option("--labels", help="Zip for the label pictures", metavar="ZIP")
@click.option("--manifest", help="Records, one a picture  [default: DEST-manifest.jsonl]", metavar="JSONL")
@click.option("--objects", help="Objects per picture (K)", metavar="INT", type=click.IntRange(1, MAX_OBJECTS),
              default=1, show_default=True)
@click.option("--num", help="Number of pictures", metavar="INT", type=click.IntRange(min=1), default=20000,
              show_default=True)
@click.option("--size", help="Side of the pictures", metavar="PX", type=click.IntRange(min=8), default=36,
              show_default=True)
@click.option("--seed", help="Random seed", metavar="INT", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--jobs", help="Worker processes", metavar="INT", type=click.IntRange(min=1), default=1,
              show_default=True)
@click.option("--holdout", help="Keep every n-th cut-out for testing", metavar="INT", type=click.IntRange(min=2))
@click.option("--split", help="Cut-outs to use with --holdout", type=click.Choice(["train", "test"]), default="train",
              show_default=True)
@click.option("--preset", help="Values of the options below", type=click.Choice(list(PRESETS)), default="plants",
              show_default=True)
@click.option("--scale", help="Largest side of the cut-out", metavar="FRAC,FRAC", type=Range(0.01, 2))
@click.option("--rotation", help="Largest angle to either side", metavar="DEG", type=click.FloatRange(0, 180))
@click.option("--flip", help="Probability of mirroring", metavar="FRAC", type=click.FloatRange(0, 1))
@click.option("--jitter", help="Largest displacement", metavar="FRAC", type=click.FloatRange(0, 0.5))
@click.option("--crop", help="Crop of the photograph's shorter side", metavar="FRAC,FRAC", type=Range(0.01, 1))
@click.option("--min-coverage", help="Smallest object share", metavar="FRAC", type=click.FloatRange(0, 1))
@click.option("--shadow-blur", help="Blur of the contact shadow", metavar="FRAC", type=click.FloatRange(0.005, 0.5))
@click.option("--shadow-offset", help="Shadow's displacement down", metavar="FRAC", type=click.FloatRange(-0.5, 0.5))
@click.option("--shadow-strength", help="Light the shadow takes", metavar="FRAC", type=click.FloatRange(0, 1))
@click.option("--tint", help="Factor of each colour channel", metavar="X,X", type=Range(0, 4))
@click.option("--light", help="Change of light from edge to edge", metavar="FRAC", type=click.FloatRange(0, 1.5))
def composites_command(
    cutouts: tuple[str, ...], cutouts_exclude: tuple[str, ...], backgrounds: tuple[str, ...],
    backgrounds_exclude: tuple[str, ...], dest: str, masks: str, labels: str | None, manifest: str | None,
    objects: int, num: int, size: int, seed: int, jobs: int, holdout: int | None, split: str, preset: str,
    **recipe_options: float | tuple[float, float] | None,
) -> None:
    """Make a data set with exact masks from RGBA cut-outs and background photographs.

    Folders are searched with their subfolders. Patterns are shell patterns on the path within the folder. Options
    that are not given take the preset's value; the same options and files give the same bytes for any --jobs.
    A mask is of all objects of a picture together; a label picture has 0 = background, 1 to K = the visible object.

    \b
    Example:
    python -m layered_plugin.dataset_tool composites --cutouts=/usr/share/tuxpaint/stamps/food/fruit \\
        --cutouts-exclude='cartoon/*' --backgrounds=/usr/share/backgrounds/mate/nature \\
        --dest=data/fruit.zip --masks=data/fruit-masks.zip --preset=plants-lit
    """
    paths = check_zips({"--dest": dest, "--masks": masks, "--labels": labels})
    chosen: dict[str, Any] = {
        field.name: recipe_options[field.name] for field in fields(Recipe) if recipe_options[field.name] is not None
    }
    recipe = replace(PRESETS[preset].for_objects(objects), **chosen)
    if recipe.shadow_strength > 0 and recipe.shadow_blur == 0:
        raise click.UsageError(f"--shadow-strength needs --shadow-blur above 0, got {recipe.shadow_strength} and 0")

    cutout_sources = _load_or_fail(
        "--cutouts", cutouts, cutouts_exclude, prepare_cutout, math.ceil(recipe.scale[1] * size * SUPERSAMPLE)
    )
    # Half again as many pixels as the smallest crop needs, so that none is magnified.
    scenes = _load_or_fail(
        "--backgrounds", backgrounds, backgrounds_exclude, prepare_background, math.ceil(1.5 * size / recipe.crop[0])
    )
    job = Job(_hold_out(cutout_sources, holdout, split), scenes, recipe, size, seed, objects)
    zips = dict(zip(("picture", "mask", "labels"), paths.values(), strict=False))
    try:
        share = write_dataset(
            draw_all(job, num, jobs), num, zips, manifest or f"{Path(dest).with_suffix('')}-manifest.jsonl"
        )
    except ImpossibleRecipeError as error:
        raise click.ClickException(f"--min-coverage: {error}") from error
    except CrowdedError as error:
        raise click.ClickException(f"--objects, --scale: {error}") from error
    except OSError as error:
        raise click.ClickException(f"{', '.join(paths)}, --manifest: cannot be written ({error})") from error
    print(f"{num} pictures, object share {share:.3f}", file=sys.stderr)
