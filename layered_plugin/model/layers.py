"""Layers to image: alpha compositing of background, foregrounds and masks.

Section 3.1 of the paper, equation 1, applied once for every object.
"""

from typing import NamedTuple

import torch


class Layers(NamedTuple):
    """A layered scene of K objects, before or after the shift; the paper has K = 1."""

    bg: torch.Tensor  # Background, [N, 3, H, W], nominally in [-1, 1].
    fg: torch.Tensor  # Foregrounds from back to front, [N, 3K, H, W], nominally in [-1, 1].
    mask: torch.Tensor  # Opacity of each foreground, [N, K, H, W], in [0, 1], as if nothing lay in front of it.


def composite(layers: Layers) -> torch.Tensor:
    """Overlay the masked foregrounds on the background, one after the other (Eq. 1).

    Returns:
        Pictures, [N, 3, H, W], in the range of the layers.

    Computed as bg + mask * (fg - bg), one multiplication fewer than the equation as printed.
    """
    img = layers.bg
    num_objects = layers.mask.shape[1]
    for fg, mask in zip(layers.fg.chunk(num_objects, dim=1), layers.mask.chunk(num_objects, dim=1), strict=True):
        img = torch.lerp(img, fg, mask)
    return img


def pad_channels(img: torch.Tensor, num: int) -> torch.Tensor:
    """Pictures [N, C, H, W] for a discriminator of `num` channels: a mask that is unknown is 0, neither nor."""
    return torch.nn.functional.pad(img, [0, 0, 0, 0, 0, num - img.shape[1]])


def fold_objects(layers: Layers) -> Layers:
    """N scenes of K objects as scenes of one object each, for what is done to every object alone.

    Returns:
        N * K scenes of one object over the same background, the K of a scene in a row; for K = 1 the scenes as given.
    """
    num, num_objects, height, width = layers.mask.shape
    if num_objects == 1:
        return layers
    return Layers(layers.bg.repeat_interleave(num_objects, dim=0),
                  layers.fg.reshape(num * num_objects, -1, height, width),
                  layers.mask.reshape(num * num_objects, 1, height, width))


def unfold_objects(folded: Layers, bg: torch.Tensor) -> Layers:
    """Put N * K scenes of ``fold_objects`` together to N of K objects; `bg` are the N backgrounds, [N, 3, H, W]."""
    num, _channels, height, width = bg.shape
    if folded.mask.shape[0] == num:  # Not len: in an export the number is free.
        return folded._replace(bg=bg)
    return Layers(bg, folded.fg.reshape(num, -1, height, width), folded.mask.reshape(num, -1, height, width))


def visible_masks(layers: Layers) -> torch.Tensor:
    """How much of each pixel shows each object: its opacity times the transparency of all that lie in front of it.

    Returns:
        [N, K, H, W], in [0, 1]; the weights of the foregrounds in the composite. For K = 1 the mask as given.
    """
    masks = list(layers.mask.split(1, dim=1))
    if len(masks) == 1:
        return layers.mask
    through = torch.ones_like(masks[-1])
    for idx in reversed(range(len(masks))):
        masks[idx], through = masks[idx] * through, through * (1 - masks[idx])
    return torch.cat(masks, dim=1)


def union_mask(layers: Layers) -> torch.Tensor:
    """Foreground against background: the visible masks of all objects together.

    Returns:
        [N, 1, H, W], in [0, 1]: one minus the weight of the background in the composite. For K = 1 the mask as given.
    """
    if layers.mask.shape[1] == 1:
        return layers.mask
    return 1 - (1 - layers.mask).prod(dim=1, keepdim=True)
