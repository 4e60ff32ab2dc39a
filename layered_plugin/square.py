"""Crop and resize pictures of any shape to squares, and their masks along with them."""

from typing import NamedTuple

import numpy as np
import PIL.Image

from layered_plugin.pictures import to_rgb

FITS = ("squeeze", "crop")


class Box(NamedTuple):
    """Part of a picture in whole pixels; right and bottom are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int


def box_about(box: tuple[float, float, float, float], margin: float, size: tuple[int, int]) -> Box:
    """Square about a bounding box, moved into the picture.

    Its side is the box's longer one times 1 + 2 margin. Where the picture is smaller than that, it is taken whole
    along that axis, so that the object is never cut.

    Args:
        box: Left, top, width and height, in pixels.
        margin: Space on each side, as a share of the box's longer side.
        size: Width and height of the picture.

    Raises:
        ValueError: The box is empty or lies outside the picture.
    """
    left, top, width, height = box
    if not (width > 0 and height > 0 and left < size[0] and top < size[1] and left + width > 0 and top + height > 0):
        raise ValueError(f"bounding box {left:g},{top:g} {width:g}x{height:g} is empty or outside the picture, "
                         f"which is {size[0]}x{size[1]}")
    side = max(round(max(width, height) * (1 + 2 * margin)), 1)
    starts, sides = [], []
    for centre, length in ((left + width / 2, size[0]), (top + height / 2, size[1])):
        sides.append(min(side, length))
        starts.append(min(max(round(centre - sides[-1] / 2), 0), length - sides[-1]))
    return Box(starts[0], starts[1], starts[0] + sides[0], starts[1] + sides[1])


def square_picture(picture: PIL.Image.Image, size_px: int, fit: str) -> np.ndarray:
    """Picture of any mode and shape to RGB, [size_px, size_px, 3], uint8.

    Args:
        picture: The picture.
        size_px: Side of the result.
        fit: "squeeze" the whole picture, or "crop" the square in its middle.
    """
    picture = to_rgb(picture)
    if picture.size == (size_px, size_px):
        return np.asarray(picture)
    return np.asarray(picture.resize((size_px, size_px), PIL.Image.Resampling.LANCZOS, _part(picture.size, fit)))


def square_mask(mask: np.ndarray, size_px: int, fit: str) -> np.ndarray:
    """Mask of the same picture, cropped and resized alike.

    Args:
        mask: Object pixels, [H, W], bool.
        size_px: Side of the result.
        fit: As for the picture.

    Returns:
        Opacity, [size_px, size_px], uint8, 255 = object, pixels of the edge in between.
    """
    whole = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(whole.resize((size_px, size_px), PIL.Image.Resampling.BILINEAR, _part(whole.size, fit)))


def _part(size: tuple[int, int], fit: str) -> Box:
    if fit not in FITS:
        raise ValueError(f"Expected argument `fit` to be one of {', '.join(FITS)}, but got {fit!r}")
    width, height = size
    if fit == "squeeze":
        return Box(0, 0, width, height)
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    return Box(left, top, left + side, top + side)
