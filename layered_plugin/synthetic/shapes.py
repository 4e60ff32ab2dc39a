"""Data set `shapes`: drawn objects standing in textured scenes, with exact masks; needs no download.

Run as `python -m layered_plugin.dataset_tool shapes --dest=data/shapes.zip --masks=data/shapes-masks.zip`.
"""

import colorsys
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from layered_plugin.data.picture_zip import picture_zips
from layered_plugin.progress import progress
from layered_plugin.synthetic.drawing import draw_all
from layered_plugin.synthetic.lighting import Light, put_into_scene, to_uint8
from layered_plugin.synthetic.occlusion import PlacedObject, label_picture, overlay, place_objects

KINDS = ("ellipse", "box", "triangle", "star", "blob")
DETAILS = ("plain", "stripes", "core", "spots")

SUPERSAMPLE = 4  # pixels are averaged from SUPERSAMPLE^2 drawn ones
JITTER = 0.12  # largest displacement of the centre of a single object, fraction of the picture
COVERAGE = (0.14, 0.38)  # range of a single object's share aimed at
MAX_RADIUS = 0.46  # farthest point from the object's centre, fraction of the picture; keeps objects whole
FREE_BORDER = 0.04  # kept free along the border where there are several objects
MIN_CONTRAST = 0.4  # smallest distance of object colour and mean background, RGB in [0, 1]


def outline(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the outline of one object, at a random angle.

    Args:
        kind: One of `KINDS`.
        rng: Source of the random proportions and angle.

    Returns:
        Corners of a polygon around the origin, [K, 2], of unit area.

    Raises:
        ValueError: If the kind is unknown.
    """
    aspect = rng.uniform(0.6, 1.0)
    if kind in ("ellipse", "blob"):
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = np.ones_like(angle)
        if kind == "blob":
            for frequency in (2, 3, 4):
                radius += rng.uniform(0.05, 0.16) * np.cos(frequency * angle + rng.uniform(0, 2 * np.pi))
    elif kind == "star":
        points = int(rng.integers(4, 8))
        angle = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
        radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, rng.uniform(0.5, 0.65))
        aspect = 1.0
    elif kind == "triangle":
        angle = np.linspace(0, 2 * np.pi, 3, endpoint=False)
        radius = np.ones(3)
    elif kind == "box":
        angle = np.pi / 4 + np.linspace(0, 2 * np.pi, 4, endpoint=False)
        radius = np.ones(4)
    else:
        raise ValueError(f"Expected argument `kind` to be one of {', '.join(KINDS)}, but got {kind!r}")
    corners = np.stack([np.cos(angle) * radius, np.sin(angle) * radius * aspect], axis=1)
    x, y = corners.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return corners @ rotation.T / np.sqrt(area)


class ShapesPicture(NamedTuple):
    """One drawn picture."""

    picture: np.ndarray  # [S, S, 3] uint8
    mask: np.ndarray  # [S, S] uint8, exact opacity of all objects together
    labels: np.ndarray | None  # [S, S] uint8, 0 = background, 1 to K = the object that is visible, from back to front


def draw_picture(size: int, rng: np.random.Generator, num_objects: int = 1, labelled: bool = True) -> ShapesPicture:
    """Draw one picture, its mask and its labels.

    Args:
        size: Side in pixels.
        rng: Source of all random choices.
        num_objects: Number of objects K, from 1 to MAX_OBJECTS.
        labelled: Are labels wanted?

    Returns:
        The picture. Several objects are smaller than a single one, and spread over the whole picture.
    """
    bg = _background(size, rng)
    bg_mean = bg.mean(axis=(0, 1))
    objects = place_objects(lambda: _draw_object(size, bg_mean, num_objects, rng), num_objects)
    light = Light(
        shadow_blur=0.06,
        shadow_offset=0.06,
        shadow_strength=0.6,
        tint=tuple(rng.uniform(0.65, 1.15, size=3)),
        gradient=tuple(rng.uniform(-0.6, 0.6, size=2)),
    )
    fg, alpha = overlay(objects)
    return ShapesPicture(put_into_scene(fg, alpha, bg, light), to_uint8(alpha),
                         label_picture(objects) if labelled else None)


def _draw_object(size: int, bg_mean: np.ndarray, num_objects: int, rng: np.random.Generator) -> PlacedObject:
    """Draw one of the objects of a picture; with K of them the share aimed at is K^1.5 times smaller."""
    corners = outline(KINDS[rng.integers(len(KINDS))], rng)
    scale = min(np.sqrt(rng.uniform(*COVERAGE)), MAX_RADIUS / np.linalg.norm(corners, axis=1).max())
    scale *= num_objects**-0.75
    reach = np.linalg.norm(corners, axis=1).max() * scale
    spread = JITTER if num_objects == 1 else max(0.5 - FREE_BORDER - reach, 0)
    centre = 0.5 + rng.uniform(-spread, spread, size=2)
    alpha = _stencil([centre + corners * scale], size)
    colour = _object_colour(bg_mean, rng)
    fg = _by_pixel(colour[:, None, None] * np.ones((1, size, size), dtype=np.float32))
    fg = _add_detail(fg, colour, centre, corners * scale, rng)
    fg = fg * _shading(size, centre, scale, rng)[:, :, None]
    return PlacedObject(np.clip(fg, 0, 1) * alpha[:, :, None], alpha)


def _by_pixel(planes: np.ndarray) -> np.ndarray:
    """Colour planes [3, S, S] as [S, S, 3], without a copy: NumPy is several times as fast along whole rows."""
    return planes.transpose(1, 2, 0)


def _stencil(polygons: list[np.ndarray], size: int) -> np.ndarray:
    """Anti-aliased union of polygons given in fractions of the picture, [size, size] in [0, 1]."""
    canvas = Image.new("L", (size * SUPERSAMPLE, size * SUPERSAMPLE))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        # Pillow puts integer coordinates on pixel centres.
        draw.polygon((polygon * (size * SUPERSAMPLE) - 0.5).ravel().tolist(), fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLE), dtype=np.float32) / 255.0


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    return _rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def _object_colour(bg_mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bright colour that stands out: the first of up to 20 far enough from the background, else the farthest."""
    tries, distances = [], []
    for hue, saturation, value in rng.random((20, 3)).tolist():  # All are drawn, so that what follows stays the same.
        colour = _rgb(hue, 0.55 + (1.0 - 0.55) * saturation, 0.6 + (1.0 - 0.6) * value)
        distance = float(np.linalg.norm(colour - bg_mean))
        if distance >= MIN_CONTRAST:
            return colour
        tries.append(colour)
        distances.append(distance)
    return tries[int(np.argmax(distances))]


def _bands(size: int, angle: float, period: float, phase: float) -> np.ndarray:
    """Soft-edged parallel bands, [size, size] in [0, 1]; the period is a fraction of the picture."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    position = axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle)
    # The slope at the edges is one pixel wide at a period of eight pixels: no aliasing at this size.
    return np.clip(0.5 + 1.6 * np.sin(2 * np.pi * position / period + phase), 0, 1)


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Muted gradient with smooth noise, in a third of the pictures with bands; [size, size, 3] in [0, 1]."""
    ends = [_colour(rng, (0.0, 0.5), (0.25, 0.85))[:, None, None] for _ in range(2)]
    angle = rng.uniform(0, 2 * np.pi)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    ramp = np.clip(0.5 + axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle), 0, 1)
    bg = ends[0] * (1 - ramp) + ends[1] * ramp
    cells = int(rng.integers(3, 10))
    grid = Image.fromarray(rng.integers(0, 256, size=(cells, cells), dtype=np.uint8))
    noise = np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255.0 - 0.5
    bg = bg + rng.uniform(0.1, 0.4) * noise
    if rng.random() < 1 / 3:
        bands = _bands(size, rng.uniform(0, np.pi), rng.uniform(0.2, 0.5), rng.uniform(0, 2 * np.pi))
        bg = bg + rng.uniform(0.08, 0.2) * (bands - 0.5)
    return _by_pixel(np.clip(bg, 0.02, 0.98).astype(np.float32))


def _add_detail(
    fg: np.ndarray, colour: np.ndarray, centre: np.ndarray, corners: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Paint stripes, a core of the object's own form, spots or nothing in a second colour."""
    size = fg.shape[0]
    detail = DETAILS[rng.integers(len(DETAILS))]
    if detail == "plain":
        return fg
    second = np.clip(colour * rng.uniform(0.35, 0.6) if rng.random() < 0.5 else 0.45 + 0.55 * colour, 0, 1)
    if detail == "stripes":
        where = _bands(size, rng.uniform(0, np.pi), rng.uniform(0.18, 0.3), rng.uniform(0, 2 * np.pi))
    elif detail == "core":
        where = _stencil([centre + corners * rng.uniform(0.35, 0.6)], size)
    else:
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.04, 0.07)
        # Half way from the centre to a corner or an edge point: always inside the convex outlines.
        places = corners[rng.permutation(len(corners))[: rng.integers(2, 6)]] * rng.uniform(0.35, 0.6)
        where = _stencil([centre + place + circle for place in places], size)
    return fg + where[:, :, None] * (second - fg)


def _shading(size: int, centre: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Brighter towards a light above, darker away from it, as on a rounded body; factors, [size, size]."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    toward = centre + scale * np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.35, -0.1)])
    squared = (axis[None, :] - toward[0]) ** 2 + (axis[:, None] - toward[1]) ** 2
    return 1.15 - rng.uniform(0.1, 0.45) * np.clip(squared / scale**2, 0, 1)


def write_shapes(zips: Mapping[str, str | None], num: int, size: int, seed: int, num_objects: int = 1,
                 jobs: int = 1) -> float:
    """Write a data set; its zips appear only when complete.

    Args:
        zips: Field of ``ShapesPicture`` to the zip for it, None = none.
        num: Number of pictures; each depends on the seed and its own number alone.
        size: Side in pixels.
        seed: Of all random choices.
        num_objects: Objects per picture.
        jobs: Processes; the bytes are the same for any number.

    Returns:
        Mean object share.
    """
    share, draw = 0.0, partial(draw_picture, size, num_objects=num_objects, labelled=zips.get("labels") is not None)
    with picture_zips(zips) as writers:
        for drawn in progress(draw_all(draw, num, seed, jobs), num, "shapes"):
            for field, writer in writers.items():
                writer.add(getattr(drawn, field))
            share += float(drawn.mask.mean()) / 255.0
    return share / num
