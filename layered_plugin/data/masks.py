"""Masks as arrays: from gray values to object or not, small parts, other sizes."""


import numpy as np
import PIL.Image
import torch
from scipy import ndimage

from layered_plugin.data.pictures import _part


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


OBJECT_LEVEL = 128  # Gray value from which on a pixel of a mask file is object.


def remove_small_parts(mask: torch.Tensor, min_part: float) -> torch.Tensor:
    """Remove the small connected parts of masks, and fill their small holes.

    Args:
        mask: Object pixels, [N, H, W], bool.
        min_part: Smallest part or hole that stays, as a share of the largest part of the object, in [0, 1].

    Returns:
        Cleaned masks, [N, H, W], bool, on the same device. Parts touch along edges; holes don't reach the border.
    """
    out = mask.cpu().numpy().copy()
    for one in out:  # A view of one mask, [H, W].
        parts, num = ndimage.label(one)
        if num == 0:
            continue
        sizes = ndimage.sum_labels(one, parts, range(1, num + 1))
        least = min_part * sizes.max()
        for idx in (sizes < least).nonzero()[0]:
            one[parts == idx + 1] = False
        holes, num = ndimage.label(ndimage.binary_fill_holes(one) & ~one)
        for idx in range(1, num + 1):
            hole = holes == idx
            if hole.sum() < least:
                one[hole] = True
    return torch.from_numpy(out).to(mask.device)


THRESHOLD = 0.5


def _squeeze(mask: np.ndarray, size_px: int) -> np.ndarray | None:
    """Half covered counts as object; a small object may vanish."""
    levels = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    squeezed = np.asarray(levels.resize((size_px, size_px), PIL.Image.Resampling.BILINEAR)) >= 128
    return squeezed if squeezed.any() else None
