"""Draw one composite picture: a cut-out, scaled, turned and lit, over a crop of a photograph.

The presets are the benchmarks of docs/data.md; `plants-lit` puts its objects into their scenes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from layered_plugin.lighting import Light, put_into_scene, to_uint8
from layered_plugin.sources import Source, premultiplied_planes

SUPERSAMPLE = 4  # cut-outs are placed on a grid this many times finer, then averaged
MAX_TRIES = 100  # draws for one picture before the options are called impossible


@dataclass(frozen=True)
class Recipe:
    """How cut-outs and backgrounds become pictures; lengths are fractions of the picture's side."""

    scale: tuple[float, float] = (0.45, 0.75)  # largest side of the cut-out, margins included, before rotation
    rotation: float = 180.0  # largest angle in degrees to either side, 180 = any
    flip: float = 0.5  # probability of a mirrored cut-out, and of a mirrored background
    jitter: float = 0.12  # largest displacement of the centre along each axis
    crop: tuple[float, float] = (0.15, 0.6)  # side of the background's crop, share of its shorter side
    min_coverage: float = 0.03  # smaller objects are drawn again
    shadow_blur: float = 0.0  # standard deviation of the contact shadow
    shadow_offset: float = 0.0  # its displacement down
    shadow_strength: float = 0.0  # light it takes from the background, 0 = none
    tint: tuple[float, float] = (1.0, 1.0)  # factor, drawn for each colour channel
    light: float = 0.0  # largest change of brightness from edge to edge along each axis


PRESETS = {
    "plants": Recipe(),
    "plants-lit": Recipe(
        scale=(0.5, 0.95), jitter=0.15, shadow_blur=0.06, shadow_offset=0.06, shadow_strength=0.6,
        tint=(0.5, 1.2), light=0.8,
    ),
}


class Composite(NamedTuple):
    """One drawn picture."""

    picture: np.ndarray  # [S, S, 3] uint8
    mask: np.ndarray  # [S, S] uint8, exact opacity
    record: dict[str, object]  # what it was made of


class ImpossibleRecipeError(Exception):
    """No picture with a large enough object came out."""


def draw_composite(
    cutouts: Sequence[Source], backgrounds: Sequence[Source], recipe: Recipe, size: int, rng: np.random.Generator
) -> Composite:
    """Draw one picture.

    Args:
        cutouts: Objects, premultiplied.
        backgrounds: Photographs.
        recipe: Ranges of the random choices.
        size: Side in pixels.
        rng: Source of all random choices.

    Returns:
        Picture, mask and record.

    Raises:
        ImpossibleRecipeError: If the object's share stays below the recipe's minimum.
    """
    for _ in range(MAX_TRIES):
        cutout = cutouts[int(rng.integers(len(cutouts)))]
        scale = rng.uniform(*recipe.scale)
        rotation = rng.uniform(-recipe.rotation, recipe.rotation)
        flip = bool(rng.random() < recipe.flip)
        centre = 0.5 + rng.uniform(-recipe.jitter, recipe.jitter, size=2)
        fg, alpha = place(cutout.image, size, scale, rotation, flip, (float(centre[0]), float(centre[1])))
        if alpha.mean() >= recipe.min_coverage:
            break
    else:
        raise ImpossibleRecipeError(f"no object covers {recipe.min_coverage} of the picture in {MAX_TRIES} draws")
    background = backgrounds[int(rng.integers(len(backgrounds)))]
    bg = crop_background(background.image, size, recipe, rng)
    light = Light(
        recipe.shadow_blur, recipe.shadow_offset, recipe.shadow_strength,
        tint=tuple(rng.uniform(*recipe.tint, size=3)),
        gradient=tuple(rng.uniform(-recipe.light, recipe.light, size=2)),
    )
    record = {
        "cutout": cutout.name, "background": background.name,
        "scale": round(scale, 4), "rotation": round(rotation, 2), "flip": flip,
        "position": [round(float(value), 4) for value in centre], "coverage": round(float(alpha.mean()), 4),
    }
    return Composite(put_into_scene(fg, alpha, bg, light), to_uint8(alpha), record)


def place(
    image: Image.Image, size: int, scale: float, rotation: float, flip: bool, centre: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Scale, mirror, turn and move a cut-out onto an empty picture, in that order.

    Args:
        image: Premultiplied RGBa cut-out with the 2-pixel rim of `prepare_cutout`.
        size: Side of the picture in pixels.
        scale: Largest side of the cut-out, fraction of the picture.
        rotation: Angle in degrees, clockwise on the screen.
        flip: Mirror left and right.
        centre: Place of the cut-out's centre (x, y), fractions of the picture.

    Returns:
        Premultiplied colour [size, size, 3] and opacity [size, size], float32 in [0, 1].
    """
    canvas = size * SUPERSAMPLE
    step = (max(image.size) - 4) / (scale * canvas)  # source pixels per canvas pixel
    cos, sin = math.cos(math.radians(rotation)) * step, math.sin(math.radians(rotation)) * step
    mirror = -1.0 if flip else 1.0
    x, y = centre[0] * canvas, centre[1] * canvas
    # Pillow asks for the way back, from canvas to source.
    back = (
        mirror * cos, mirror * sin, image.width / 2 - mirror * (cos * x + sin * y),
        -sin, cos, image.height / 2 - (-sin * x + cos * y),
    )
    placed = image.transform((canvas, canvas), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    return premultiplied_planes(placed.reduce(SUPERSAMPLE))


def crop_background(image: Image.Image, size: int, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Take a random square of a photograph, [size, size, 3], float32 in [0, 1]."""
    side = rng.uniform(*recipe.crop) * min(image.size)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    values = np.asarray(crop, dtype=np.float32) / 255.0
    return values[:, ::-1] if rng.random() < recipe.flip else values
