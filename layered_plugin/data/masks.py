"""Masks as arrays: from files to object or not, small parts, other sizes."""

import math
import re

import numpy as np
import PIL.Image

from layered_plugin.data.pictures import fit_box
from layered_plugin.errors import ArgumentError, UnusableError

OBJECT_LEVEL = 128  # Gray value from which on a pixel of a mask file is object.
THRESHOLD = 0.5  # Opacity from which on a pixel of a predicted mask is object.


Ranges = list[tuple[float, float]]


def parse_values(text: str) -> Ranges:
    """Read which values of a mask file are object: numbers and ranges with commas, such as ``1,3-5`` or ``1-``.

    First and last value of each range; one without an end ends at infinity. ArgumentError if it is no such list.
    """
    ranges: Ranges = []
    for part in text.split(","):
        numbers = re.fullmatch(r"(\d+)(?:(-)(\d*))?", part.strip())
        first = int(numbers[1]) if numbers else math.inf
        last = first if not numbers or not numbers[2] else float(numbers[3] or math.inf)
        if numbers is None or last < first:
            raise ArgumentError(f"`mask_values` must be numbers and ranges such as 1,3-5 or 1-, got {text!r}")
        ranges.append((first, last))
    return ranges


def mask_opacity(picture: PIL.Image.Image, values: Ranges | None = None) -> np.ndarray:
    """Read a mask file as people have them.

    Plain are, in this order: transparency, object where it is opaque; numbers of a palette of colours with black for
    number 0, object all others; gray of 8 or 16 bits, object from half of the bits' range on.

    Args:
        picture: The file, decoded in its own mode.
        values: Values that are object: numbers of a palette, else gray levels; None = as above.

    Returns:
        Opacity, [H, W], uint8; object from ``OBJECT_LEVEL`` on.

    Raises:
        UnusableError: It is not plain what is object; the text says why, and what to do.
    """
    if values is not None:
        stored = np.asarray(picture if picture.mode == "P" else _gray_levels(picture))
        chosen = np.any([(first <= stored) & (stored <= last) for first, last in values], axis=0)
        return chosen.astype(np.uint8) * 255
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            return _plain(alpha, "opacities", 255)
    if picture.mode == "P" and _is_coloured(np.asarray(picture.convert("RGB"))):
        numbers = np.asarray(picture)
        if 255 in numbers or picture.getpalette()[:3] != [0, 0, 0]:  # type: ignore[index]
            raise UnusableError(f"has a palette of colours, numbers {numbers.min()} to {numbers.max()}, but 0 is not "
                                f"black, or 255 is used, which often means no class; {_REMEDY}")
        return (numbers > 0).astype(np.uint8) * 255
    levels = _gray_levels(picture)
    return _plain(levels, "values", 65535 if levels.max() > 255 else 255)


_REMEDY = "save it with 0 and 255, or in eval.py say what is object, such as `mask_values`=1-"


def _plain(levels: np.ndarray, kind: str, largest: int) -> np.ndarray:
    """Levels of 8 or 16 bits as opacity; not without one of at least half the range, or all of them 0."""
    if 0 < levels.max() < (largest + 1) // 2:
        raise UnusableError(f"holds {kind} up to {levels.max()} alone, and object is from {(largest + 1) // 2} on; "
                            f"{_REMEDY}")
    return (levels >> 8 if largest > 255 else levels).astype(np.uint8)


def _gray_levels(picture: PIL.Image.Image) -> np.ndarray:
    """Gray levels of 8 or 16 bits, whole numbers; 0 and 255 of a picture of one bit."""
    if picture.mode == "F":
        levels = np.asarray(picture)
        if (levels != levels.round()).any():
            raise UnusableError("holds fractions; save it with whole numbers, such as 0 and 255")
        return levels.clip(0, 65535).astype(np.int32)
    if picture.mode.startswith("I"):
        return np.asarray(picture).clip(0, 65535).astype(np.int32)
    colors = picture.convert("RGBA").convert("RGB")  # Pillow warns of palettes with transparency otherwise.
    if _is_coloured(np.asarray(colors)):
        raise UnusableError("is coloured; save it with a palette, or in gray with 0 and 255")
    return np.asarray(colors.convert("L"))


def _is_coloured(pixels: np.ndarray) -> bool:
    """Whether any pixel [H, W, 3] is further from gray than lossy compression makes it."""
    return int(np.ptp(pixels.astype(np.int16), axis=2).max()) > 32


def has_proportions(mask: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a mask, [H, W], can be of a picture of this width and height, scaled, up to a pixel of rounding."""
    height, width = mask.shape
    return abs(width * size[1] - height * size[0]) <= max(width + height, sum(size))


def square_mask(mask: np.ndarray, size_px: int, fit: str) -> np.ndarray:
    """Mask of the same picture, [H, W], bool, cropped and resized alike.

    Opacity, [size_px, size_px], uint8, 255 = object, pixels of the edge in between.
    """
    whole = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(whole.resize((size_px, size_px), PIL.Image.Resampling.BILINEAR, fit_box(whole.size, fit)))


def remove_small_parts(mask: np.ndarray, min_part: float) -> np.ndarray:
    """Remove the small connected parts of masks, and fill their small holes.

    Args:
        mask: Object pixels, [N, H, W], bool.
        min_part: Smallest part or hole that stays, as a share of the largest part of the object, in [0, 1].

    Returns:
        Cleaned masks, [N, H, W], bool. Parts touch along edges; holes don't reach the border.
    """
    out = mask.copy()
    parts, sizes = _label(out)
    owner = np.zeros(len(sizes), np.intp)  # Picture of each part.
    pictures, rows, cols = out.nonzero()
    owner[parts[pictures, rows, cols]] = pictures
    least = np.zeros(len(out))
    np.maximum.at(least, owner, sizes * min_part)
    out[(sizes < least[owner])[parts] & out] = False

    holes, sizes = _label(~out)
    border = np.unique(np.concatenate([holes[:, [0, -1]].ravel(), holes[:, :, [0, -1]].ravel()]))
    pictures, rows, cols = holes.nonzero()
    owner = np.zeros(len(sizes), np.intp)
    owner[holes[pictures, rows, cols]] = pictures
    small = sizes < least[owner]
    small[border] = small[0] = False
    out[small[holes]] = True
    return out


# Pixels touch along edges, and never those of another picture.
_TOUCHING = np.stack([np.zeros([3, 3]), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros([3, 3])])


def _label(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected parts of a batch of masks from 1, [N, H, W]; pixels of each, none for number 0."""
    from scipy.ndimage import label  # Takes long to import, and most processes have no part to count.

    parts, num = label(masks, _TOUCHING)
    sizes = np.bincount(parts.ravel(), minlength=num + 1)
    sizes[0] = 0
    return parts, sizes
