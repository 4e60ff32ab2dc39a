"""Several objects in one drawn picture: room for each, what is visible of it, label pictures.

For the tools that draw data sets; objects are ordered from back to front.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from layered_plugin.errors import CrowdedError

MAX_OBJECTS = 5  # in a picture; more would be too small to tell apart
MIN_VISIBLE = 0.7  # least share of an object that may be left by those in front of it
MAX_TRIES = 100  # draws for one object before the picture is called crowded


class PlacedObject(NamedTuple):
    """One object on an empty picture."""

    fg: np.ndarray  # [S, S, 3], colour times opacity, in [0, 1]
    alpha: np.ndarray  # [S, S], opacity, in [0, 1]


def place_objects(draw: Callable[[], PlacedObject], num: int) -> list[PlacedObject]:
    """Draw objects until each has room: at least MIN_VISIBLE of every one stays visible.

    Args:
        draw: Draws one object at a random place.
        num: How many objects, at least 1; a single one is drawn once and taken.

    Returns:
        The objects from back to front.

    Raises:
        CrowdedError: No place was found in MAX_TRIES draws of an object.
    """
    objects = [draw()]
    for number in range(2, num + 1):
        for _ in range(MAX_TRIES):
            tried = [*objects, draw()]
            parts = visible_parts([placed.alpha for placed in tried])
            if all(part.sum() >= MIN_VISIBLE * placed.alpha.sum() for part, placed in zip(parts, tried, strict=True)):
                objects = tried
                break
        else:
            raise CrowdedError(f"no room for object {number} of {num} in {MAX_TRIES} draws")
    return objects


def visible_parts(alphas: Sequence[np.ndarray]) -> np.ndarray:
    """Opacity of each of K objects, [S, S] in [0, 1], times the transparency of those that follow it; [K, S, S]."""
    parts = np.array(alphas)
    through = np.ones_like(parts[0])
    for part in parts[::-1]:  # Views.
        opacity = part.copy()
        part *= through
        through = through * (1 - opacity)
    return parts


def overlay(objects: Sequence[PlacedObject]) -> PlacedObject:
    """All objects as one, premultiplied: the later ones lie in front."""
    fg, alpha = objects[0]
    for front in objects[1:]:
        through = 1 - front.alpha
        fg, alpha = front.fg + fg * through[:, :, None], front.alpha + alpha * through
    return PlacedObject(fg, alpha)


def label_picture(objects: Sequence[PlacedObject]) -> np.ndarray:
    """Which object a pixel shows.

    Args:
        objects: K objects from back to front, at most 255.

    Returns:
        [S, S], uint8: 0 where the objects together are less than half opaque, elsewhere the number 1 to K of the
        object with the largest visible part.
    """
    parts = visible_parts([placed.alpha for placed in objects])
    largest = parts.argmax(axis=0) + 1
    return np.where(np.rint(overlay(objects).alpha * 255) >= 128, largest, 0).astype(np.uint8)
