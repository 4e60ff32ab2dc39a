"""Augmentation of pictures together with their masks, for the networks that learn to segment.

The disturbances stand for what sets generated pictures apart from photographs: softness, noise, shifted colours.
"""

import math

import torch
from torch.nn import functional as F

from layered_plugin.dataset import CROP_MARGIN


def crop_side(size: int) -> int:
    """Side of the crops trained on, for stored pictures of the given side: size / 1.125, a multiple of 4."""
    return int(size / CROP_MARGIN) // 4 * 4


def center_crop(values: torch.Tensor, side: int) -> torch.Tensor:
    """Cut the middle [..., side, side] out of [..., S, S]."""
    top, left = (values.shape[-2] - side) // 2, (values.shape[-1] - side) // 2
    return values[..., top : top + side, left : left + side]


def random_crop_flip(
    img: torch.Tensor, target: torch.Tensor, side: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the same random square out of each picture and its mask and mirror both with probability 1/2.

    Args:
        img: [N, 3, S, S].
        target: [N, K, S, S].
        side: Side of the square, at most S.
        generator: Source of randomness.

    Returns:
        Pictures [N, 3, side, side] and masks [N, K, side, side].
    """
    num, _, size, _ = img.shape
    together = torch.cat([img, target], dim=1)
    places = torch.randint(size - side + 1, (num, 2), generator=generator).tolist()
    mirrored = (torch.rand(num, generator=generator) < 0.5).tolist()
    parts = []
    for picture, (top, left), mirror in zip(together, places, mirrored, strict=True):
        part = picture[:, top : top + side, left : left + side]
        parts.append(part.flip(2) if mirror else part)
    together = torch.stack(parts)
    return together[:, :3], together[:, 3:]


def detail_of(resolution: int) -> int:
    """How many times as fine as at 32x32, where widths in pixels were chosen, pictures of this side are; at least 1."""
    return max(1, resolution // 32)


def disturb(img: torch.Tensor, generator: torch.Generator, detail: int = 1) -> torch.Tensor:
    """Vary colour, brightness, sharpness and noise, so that generated and real pictures look alike.

    Args:
        img: [N, 3, H, W], in [-1, 1].
        generator: Source of randomness, on the CPU.
        detail: How many times as fine as at 32x32 the pictures are, a divisor of H and W. Blurs are so many times as
            wide, and half of the pictures keep only the detail of 32x32: what is finer, a generator draws worst.

    Returns:
        [N, 3, H, W], in [-1, 1], on the device of img.
    """
    num = len(img)
    if detail > 1:
        coarse = F.interpolate(F.avg_pool2d(img, detail), scale_factor=detail, mode="bilinear")
        img = torch.where((torch.rand(num, 1, 1, 1, generator=generator) < 0.5).to(img.device), coarse, img)
    gain = 1 + 0.2 * (2 * torch.rand(num, 3, 1, 1, generator=generator) - 1)
    offset = 0.2 * (2 * torch.rand(num, 1, 1, 1, generator=generator) - 1)
    # A mix with the mean of the neighbours: 0 = sharp, 0.7 = as soft as an early generator's pictures.
    soft = (0.7 * torch.rand(num, 1, 1, 1, generator=generator)) * (
        torch.rand(num, 1, 1, 1, generator=generator) < 0.5
    )
    blurred = F.avg_pool2d(F.pad(img, [detail] * 4, mode="replicate"), 2 * detail + 1, stride=1)
    noise = 0.06 * torch.rand(num, 1, 1, 1, generator=generator) * torch.randn(img.shape, generator=generator)
    soft, gain, offset, noise = (value.to(img.device) for value in (soft, gain, offset, noise))
    return ((img + soft * (blurred - img)) * gain + offset + noise).clamp(-1, 1)


def random_affine(
    img: torch.Tensor,
    target: torch.Tensor,
    generator: torch.Generator,
    angle: float = 180.0,
    scale: float = 1.3,
    stretch: float = 1.2,
    shift: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror, turn, scale, stretch and move each picture together with its mask.

    Args:
        img: Pictures, [N, 3, S, S].
        target: Masks, [N, 1, S, S].
        generator: Source of randomness, on the CPU.
        angle: Largest rotation to either side, in degrees.
        scale: Largest factor of enlargement, and of reduction; at least 1.
        stretch: Largest ratio of the scales of the two axes, at least 1.
        shift: Largest displacement along an axis, as a fraction of the side.

    Returns:
        Pictures and masks of the same shapes, by bilinear interpolation. Beyond the border the picture is mirrored,
        its mask as well.
    """
    num = len(img)

    def uniform(limit: float) -> torch.Tensor:
        return limit * (2 * torch.rand(num, generator=generator) - 1)

    theta = uniform(math.radians(angle))
    log_scale, log_stretch = uniform(math.log(scale)), uniform(math.log(stretch) / 2)
    mirror = torch.where(torch.rand(num, generator=generator) < 0.5, -1.0, 1.0)
    axis_x, axis_y = torch.exp(-log_scale - log_stretch) * mirror, torch.exp(-log_scale + log_stretch)
    cos, sin = torch.cos(theta), torch.sin(theta)
    rows = [torch.stack([cos * axis_x, -sin * axis_y, uniform(2 * shift)], dim=1),
            torch.stack([sin * axis_x, cos * axis_y, uniform(2 * shift)], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(img.device), list(img.shape), align_corners=False)
    both = F.grid_sample(torch.cat([img, target], dim=1), grid, mode="bilinear", padding_mode="reflection",
                         align_corners=False)
    return both[:, :3], both[:, 3:]
