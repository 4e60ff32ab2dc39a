"""From what a network says of a small square to the picture's own size: the part of segmenting that needs no network.

Plain arithmetic on the CPU, one picture at a time, so that any process can do it.
"""

from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
from torch.nn import functional as F

from layered_plugin.data.masks import THRESHOLD
from layered_plugin.data.pictures import inner_box, to_float, to_letterbox, to_square
from layered_plugin.segmentation.colors import MARGIN, correct_by_colors
from layered_plugin.segmentation.edges import is_enlarged, sharpen_mask


class Drawn(NamedTuple):
    """What a network says of one picture, at its own resolution R.

    Fields:
        mask: Opacity of the object, [R, R], float32, in [0, 1].
        bg: Background with the object's place filled in, [3, R, R], uint8; encoders only, else None.
        fg: Foreground, [3, R, R], uint8; encoders only.
        composite: Reconstruction, [3, R, R], uint8; encoders only.
        error: Mean absolute difference of the reconstruction to the picture, in [0, 255]; encoders only.
    """

    mask: np.ndarray
    bg: np.ndarray | None = None
    fg: np.ndarray | None = None
    composite: np.ndarray | None = None
    error: float | None = None


class Segmentation(NamedTuple):
    """What a model says of one picture: as ``Drawn``, but at the picture's own size, layers [H, W, 3].

    Fields:
        mask: Opacity of the object, [H, W], float32, in [0, 1].
        confidence: IoU that the mask can be expected to have, in [0, 1] (`expected_iou`).
        error: Taken at the network's resolution.
    """

    mask: np.ndarray
    confidence: float
    bg: np.ndarray | None = None
    fg: np.ndarray | None = None
    composite: np.ndarray | None = None
    error: float | None = None


def shrink(picture: PIL.Image.Image, resolution: int, letterbox: bool) -> np.ndarray:
    """The square [3, R, R], uint8, that a network is shown of a picture of any mode and size, fitted in or squeezed."""
    return to_letterbox(picture, resolution) if letterbox else to_square(picture, resolution)


def enlarge(drawn: Drawn, picture: PIL.Image.Image, sharp: bool, letterbox: bool = False,
            margin: float = MARGIN) -> Segmentation:
    """Bring a network's result to the picture's own size.

    Args:
        drawn: The result.
        picture: The picture, RGB.
        sharp: Correct the mask by the picture's colors (`colors`), and refine that of a picture much larger than the
            network with the picture as guide (`edges`)?
        letterbox: Did the network see it in its own proportions (`shrink`)? Of masks alone.
        margin: As of `correct_by_colors`.
    """
    size, resolution = (picture.height, picture.width), drawn.mask.shape[0]
    if letterbox:
        box = inner_box(picture.size, resolution)
        drawn = Drawn(np.ascontiguousarray(drawn.mask[box.top:box.bottom, box.left:box.right]))
    if sharp and is_enlarged(picture.size, resolution):
        mask = sharpen_mask(picture, drawn.mask, margin)
    else:
        opacity = _stretch(drawn.mask[None], size).clamp(0, 1)
        if sharp:
            img = to_float(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])
            opacity = correct_by_colors(img, opacity[None], margin)[0]
        mask = opacity[0].numpy()
    bg, fg, reconstruction = (None if layer is None else _stretch_layer(layer, size)
                              for layer in (drawn.bg, drawn.fg, drawn.composite))
    return Segmentation(mask, expected_iou(drawn.mask), bg, fg, reconstruction, drawn.error)


def expected_iou(opacity: np.ndarray) -> float:
    """How good a mask can be expected to be, without a label: its own opacities, taken for chances of object.

    If each pixel is object with the chance of its opacity, the object and the mask cut at ``THRESHOLD`` have in common,
    and cover together, as much as is summed here in the mean. The ratio is no promise: a network can be sure of the
    wrong thing. But pictures are ranked by it about as by their true IoU (docs/results.md).

    Args:
        opacity: Of a network, [R, R], in [0, 1].

    Returns:
        Expected intersection by expected union, in [0, 1]; 0 where nothing is object.
    """
    inside = opacity >= THRESHOLD
    common = float(opacity[inside].sum(dtype=np.float64))
    return common / (float(inside.sum()) + float(opacity[~inside].sum(dtype=np.float64))) if common > 0 else 0.0


def _stretch(values: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, [C, R, R] to [C, H, W], float32."""
    small = torch.from_numpy(values).float()
    return small if small.shape[1:] == size else F.interpolate(small[None], size=size, mode="bilinear")[0]


def _stretch_layer(layer: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [3, R, R] to uint8 [H, W, 3]."""
    out = _stretch(layer, size).round().clamp(0, 255).to(torch.uint8)
    return out.permute(1, 2, 0).contiguous().numpy()
