"""Draw one composite picture: a cut-out, scaled, turned and lit, over a crop of a photograph.

The presets are the benchmarks of docs/data.md; `plants-lit` puts its objects into their scenes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from layered_plugin.errors import ImpossibleRecipeError
from layered_plugin.synthetic.lighting import Light, cast_shadow, put_into_scene, to_uint8
from layered_plugin.synthetic.material import Source, premultiplied_planes
from layered_plugin.synthetic.occlusion import PlacedObject, label_picture, overlay, place_objects, visible_parts

SUPERSAMPLE = 4  # cut-outs are placed on a grid this many times finer, then averaged
MAX_TRIES = 100  # draws for one picture before the options are called impossible


@dataclass(frozen=True)
class Recipe:
    """How cut-outs and backgrounds become pictures; lengths are fractions of the picture's side."""

    scale: tuple[float, float] = (0.45, 0.75)  # largest side of the cut-out, margins included, before rotation
    rotation: float = 180.0  # largest angle in degrees to either side, 180 = any
    flip: float = 0.5  # probability of a mirrored cut-out, and of a mirrored background
    jitter: float = 0.12  # largest displacement of the centre along each axis; of several objects at least this
    crop: tuple[float, float] = (0.15, 0.6)  # side of the background's crop, share of its shorter side
    min_coverage: float = 0.03  # smaller objects are drawn again
    shadow_blur: float = 0.0  # standard deviation of the contact shadow
    shadow_offset: float = 0.0  # its displacement down
    shadow_strength: float = 0.0  # light it takes from the background, 0 = none
    tint: tuple[float, float] = (1.0, 1.0)  # factor, drawn for each colour channel
    light: float = 0.0  # largest change of brightness from edge to edge along each axis

    def for_objects(self, num: int) -> "Recipe":
        """The same for pictures of K objects: sides K^0.75 times smaller, and areas accordingly."""
        factor = num**-0.75
        return replace(self, scale=(self.scale[0] * factor, self.scale[1] * factor),
                       min_coverage=self.min_coverage * factor**2)


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
    mask: np.ndarray  # [S, S] uint8, exact opacity of all objects together
    labels: np.ndarray  # [S, S] uint8, 0 = background, 1 to K = the object that is visible, from back to front
    ground: np.ndarray  # [S, S, 3] uint8, the picture without its objects, their shadows left
    record: dict[str, object]  # what it was made of


def draw_composite(
    cutouts: Sequence[Source], backgrounds: Sequence[Source], recipe: Recipe, size: int, rng: np.random.Generator,
    num_objects: int = 1,
) -> Composite:
    """Draw one picture.

    Args:
        cutouts: Objects, premultiplied.
        backgrounds: Photographs.
        recipe: Ranges of the random choices.
        size: Side in pixels.
        rng: Source of all random choices.
        num_objects: Number of objects K; several are spread over the whole picture.

    Returns:
        The picture; the record of several objects has a list of them in place of the one.

    Raises:
        ImpossibleRecipeError: An object's share stays below the recipe's minimum.
        CrowdedError: There is no room for so many objects.
    """
    drawn: list[tuple[PlacedObject, dict[str, object]]] = []

    def draw() -> PlacedObject:
        drawn.append(_draw_object(cutouts, recipe, size, rng, num_objects))
        return drawn[-1][0]

    objects = place_objects(draw, num_objects)
    records = [record for placed, record in drawn if any(placed is kept for kept in objects)]
    background = backgrounds[int(rng.integers(len(backgrounds)))]
    bg = crop_background(background.image, size, recipe, rng)
    light = Light(
        recipe.shadow_blur, recipe.shadow_offset, recipe.shadow_strength,
        tint=tuple(rng.uniform(*recipe.tint, size=3)),
        gradient=tuple(rng.uniform(-recipe.light, recipe.light, size=2)),
    )
    fg, alpha = overlay(objects)
    coverage = round(float(alpha.mean()), 4)
    if num_objects == 1:
        cutout = records[0].pop("cutout")
        record = {"cutout": cutout, "background": background.name, **records[0], "coverage": coverage}
    else:
        parts = visible_parts([placed.alpha for placed in objects])
        for object_record, part in zip(records, parts, strict=True):
            object_record["coverage"] = round(float(part.mean()), 4)
        record = {"background": background.name, "objects": records, "coverage": coverage}
    ground = put_into_scene(np.zeros_like(fg), np.zeros_like(alpha), cast_shadow(bg, alpha, light), light)
    return Composite(put_into_scene(fg, alpha, bg, light), to_uint8(alpha), label_picture(objects), ground, record)


def _draw_object(
    cutouts: Sequence[Source], recipe: Recipe, size: int, rng: np.random.Generator, num_objects: int
) -> tuple[PlacedObject, dict[str, object]]:
    """Place one of the objects of a picture, and say what it is."""
    for _ in range(MAX_TRIES):
        cutout = cutouts[int(rng.integers(len(cutouts)))]
        scale = rng.uniform(*recipe.scale)
        rotation = rng.uniform(-recipe.rotation, recipe.rotation)
        flip = bool(rng.random() < recipe.flip)
        spread = recipe.jitter if num_objects == 1 else max(0.5 - scale / 2, recipe.jitter)
        centre = 0.5 + rng.uniform(-spread, spread, size=2)
        placed = PlacedObject(*place(cutout.image, size, scale, rotation, flip, (float(centre[0]), float(centre[1]))))
        if placed.alpha.mean() >= recipe.min_coverage:
            break
    else:
        raise ImpossibleRecipeError(f"no object covers {recipe.min_coverage} of the picture in {MAX_TRIES} draws")
    return placed, {
        "cutout": cutout.name, "scale": round(scale, 4), "rotation": round(rotation, 2), "flip": flip,
        "position": [round(float(value), 4) for value in centre],
    }


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
