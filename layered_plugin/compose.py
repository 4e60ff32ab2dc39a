"""Layers to image: alpha compositing of background, foreground and mask.

Section 3.1 of the paper, equation 1.
"""

from typing import NamedTuple

import torch


class Layers(NamedTuple):
    """A layered scene, before or after the shift.

    Fields:
        bg: Background, [N, 3, H, W], nominally in [-1, 1].
        fg: Foreground, [N, 3, H, W], nominally in [-1, 1].
        mask: Foreground opacity, [N, 1, H, W], in [0, 1].
    """

    bg: torch.Tensor
    fg: torch.Tensor
    mask: torch.Tensor


def composite(layers: Layers) -> torch.Tensor:
    """Overlay the masked foreground on the background (Eq. 1).

    Args:
        layers: Scene of N pictures.

    Returns:
        Pictures, [N, 3, H, W], in the range of the two layers.

    Computed as bg + mask * (fg - bg), one multiplication fewer than the equation as printed.
    """
    return torch.lerp(layers.bg, layers.fg, layers.mask)
