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
    parts, sizes = _label(out)
    owner = np.zeros(len(sizes), np.intp)  # Picture of each part.
    where, rows, cols = out.nonzero()
    owner[parts[where, rows, cols]] = where
    least = np.zeros(len(out))
    np.maximum.at(least, owner, sizes * min_part)
    out[(sizes < least[owner])[parts] & out] = False

    holes, sizes = _label(~out)
    border = np.unique(np.concatenate([holes[:, [0, -1]].ravel(), holes[:, :, [0, -1]].ravel()]))
    where, rows, cols = holes.nonzero()
    owner = np.zeros(len(sizes), np.intp)
    owner[holes[where, rows, cols]] = where
    small = sizes < least[owner]
    small[border] = small[0] = False
    out[small[holes]] = True
    return torch.from_numpy(out).to(mask.device)


# Pixels touch along edges, and never those of another picture.
_TOUCHING = np.stack([np.zeros([3, 3]), ndimage.generate_binary_structure(2, 1), np.zeros([3, 3])])


def _label(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected parts of a batch of masks from 1, [N, H, W]; pixels of each, none for number 0."""
    parts, num = ndimage.label(masks, _TOUCHING)
    sizes = np.bincount(parts.ravel(), minlength=num + 1)
    sizes[0] = 0
    return parts, sizes


def squeeze_mask(mask: np.ndarray, size_px: int) -> np.ndarray | None:
    """Object pixels [H, W] of a picture that is squeezed to a square; half covered counts, a small object may vanish.

    Returns:
        [size_px, size_px], bool; None where no object is left.
    """
    levels = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    squeezed = np.asarray(levels.resize((size_px, size_px), PIL.Image.Resampling.BILINEAR)) >= OBJECT_LEVEL
    return squeezed if squeezed.any() else None
