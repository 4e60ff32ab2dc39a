"""Masks as arrays: from gray values to object or not, small parts, other sizes."""

import numpy as np
import PIL.Image
import torch
from scipy import ndimage

from layered_plugin.data.pictures import fit_box

OBJECT_LEVEL = 128  # Gray value from which on a pixel of a mask file is object.

THRESHOLD = 0.5  # Opacity from which on a pixel of a predicted mask is object.


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
    return np.asarray(whole.resize((size_px, size_px), PIL.Image.Resampling.BILINEAR, fit_box(whole.size, fit)))


def remove_small_parts(mask: torch.Tensor, min_part: float) -> torch.Tensor:
    """Remove the small connected parts of masks, and fill their small holes.

    Args:
        mask: Object pixels, [N, H, W], bool.
        min_part: Smallest part or hole that stays, as a share of the largest part of the object, in [0, 1].

    Returns:
        Cleaned masks, [N, H, W], bool, on the same device. Parts touch along edges; holes don't reach the border.
    """
    out = mask.cpu().numpy().copy()
    for picture_mask in out:  # A view, [H, W].
        parts, num = ndimage.label(picture_mask)
        if num == 0:
            continue
        sizes = ndimage.sum_labels(picture_mask, parts, range(1, num + 1))
        least = min_part * sizes.max()
        for idx in (sizes < least).nonzero()[0]:
            picture_mask[parts == idx + 1] = False
        holes, num = ndimage.label(ndimage.binary_fill_holes(picture_mask) & ~picture_mask)
        for idx in range(1, num + 1):
            hole = holes == idx
            if hole.sum() < least:
                picture_mask[hole] = True
    return torch.from_numpy(out).to(mask.device)


def squeeze_mask(mask: np.ndarray, size_px: int) -> np.ndarray | None:
    """Object pixels [H, W] of a picture that is squeezed to a square; half covered counts, a small object may vanish.

    Returns:
        [size_px, size_px], bool; None where no object is left.
    """
    levels = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    squeezed = np.asarray(levels.resize((size_px, size_px), PIL.Image.Resampling.BILINEAR)) >= OBJECT_LEVEL
    return squeezed if squeezed.any() else None
