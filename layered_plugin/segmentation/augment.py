"""Augmentation of generated scenes before they are composited, and of the pairs of picture and mask that come of them.

Not in the paper: what makes a segmenter of generated pictures fit for real ones. First what is done to scenes, then to
pairs.
"""

import math

import torch
from torch.nn import functional as F

from layered_plugin.model.layers import Layers

LOBES = (2, 8)  # Least and largest number of petals of a bent outline.
LEAST_RADIUS = 0.35  # Of the factor by which an outline's radius changes, so that no outline folds.


def detail_of(resolution: int) -> int:
    """How many times as fine as at 32x32, where widths in pixels were chosen, pictures of this side are; at least 1."""
    return max(1, resolution // 32)


def clean_edges(layers: Layers, radius_px: int = 3) -> Layers:
    """Continue the object's colors across its edge, so that no rim of foreign color betrays the mask.

    Outside the mask nothing tells a generator which color the foreground should have; half-transparent edge pixels
    let some of it through.

    Args:
        layers: Scenes.
        radius_px: How far the colors of the opaque inside are carried.

    Returns:
        The same scenes with another foreground along the edge: on the outermost pixels of the opaque inside and up to
        radius_px - 1 pixels beyond them.
    """
    inside = -F.max_pool2d(-(layers.mask > 0.9).to(layers.fg.dtype), 3, stride=1, padding=1)  # Less one pixel.
    color, weight = layers.fg * inside, inside
    for _ in range(radius_px):
        around, share = F.avg_pool2d(color, 3, 1, 1), F.avg_pool2d(weight, 3, 1, 1)
        new = (weight == 0) & (share > 0)
        color = torch.where(new, around / share.clamp(min=1e-6), color)
        weight = torch.where(new, 1.0, weight)
    return layers._replace(fg=torch.where(weight > 0, color, layers.fg))


def vary_shape(layers: Layers, prob: float, generator: torch.Generator) -> Layers:
    """Bend the outlines of objects, each about its own center of mass: stretched, lopsided, with petals.

    The outline at angle t comes to lie at its old radius divided by 1 + a cos(k t + p) + b cos(l t + q), with random
    depths a <= 0.6 and b <= 0.3, 2 to 8 petals k, l = 1 to 3, after a stretch by up to 2 along a random axis and as
    much a squeeze across it. An object that the border cuts is left as it is: bent, its straight cut would show.

    Args:
        layers: N scenes.
        prob: Probability that a scene is bent.
        generator: Source of randomness, on the CPU.

    Returns:
        The scenes with another foreground and mask, by bilinear interpolation.
    """
    if prob == 0:
        return layers
    num, _, height, width = layers.mask.shape
    device = layers.mask.device

    def uniform(low: float, high: float) -> torch.Tensor:
        return (low + (high - low) * torch.rand([num, 1, 1], generator=generator)).to(device)

    def wave(depth: float, low: int, high: int) -> torch.Tensor:
        lobes = torch.randint(low, high + 1, [num, 1, 1], generator=generator).to(device)
        return uniform(0, depth) * torch.cos(lobes * angle + uniform(0, 2 * math.pi))

    # Positions relative to the object's center, in the coordinates of grid_sample.
    identity = torch.eye(2, 3, device=device).expand(num, -1, -1)
    grid = F.affine_grid(identity, [num, 1, height, width], align_corners=False)  # [N, H, W, 2]
    weight = layers.mask[:, 0, :, :, None]
    center = (grid * weight).sum(dim=[1, 2], keepdim=True) / weight.sum(dim=[1, 2], keepdim=True).clamp(min=1e-3)
    dx, dy = (grid - center).unbind(dim=3)
    angle = torch.atan2(dy, dx)
    factor = (1 + wave(0.6, *LOBES) + wave(0.3, 1, 3)).clamp(min=LEAST_RADIUS)

    axis, stretch = uniform(0, math.pi), torch.exp(uniform(-math.log(2), math.log(2)))
    bent = unstretch(dx, dy, axis, stretch) * factor[..., None]
    ends = torch.cat([layers.mask[:, :, [0, -1]].flatten(1), layers.mask[:, :, :, [0, -1]].flatten(1)], dim=1)
    uncut = (ends <= 0.5).all(dim=1)[:, None, None, None]
    chosen = (uniform(0, 1)[..., None] < prob) & uncut
    where = torch.where(chosen, center + bent, grid)
    fg = F.grid_sample(layers.fg, where, padding_mode="border", align_corners=False)
    mask = F.grid_sample(layers.mask, where, padding_mode="zeros", align_corners=False)
    return layers._replace(fg=fg, mask=mask)


def unstretch(dx: torch.Tensor, dy: torch.Tensor, axis: torch.Tensor, stretch: torch.Tensor) -> torch.Tensor:
    """Where points of pictures come from that were stretched about the origin, and squeezed as much across.

    Args:
        dx, dy: Points, [N, H, W] each.
        axis: Angle of the axis squeezed along, [N, 1, 1], in radians.
        stretch: Factor across it, [N, 1, 1].

    Returns:
        [N, H, W, 2], x and y.
    """
    cos, sin = torch.cos(axis), torch.sin(axis)
    along, across = (cos * dx + sin * dy) * stretch, (cos * dy - sin * dx) / stretch
    return torch.stack([cos * along - sin * across, sin * along + cos * across], dim=3)


def random_affine(
    img: torch.Tensor,
    target: torch.Tensor,
    generator: torch.Generator,
    angle: float = 180.0,
    scale: float = 1.3,
    stretch: float = 1.2,
    translation: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror, turn, scale, stretch and move each picture together with its mask.

    Args:
        img: Pictures, [N, 3, S, S].
        target: Masks, [N, 1, S, S].
        generator: Source of randomness, on the CPU.
        angle: Largest rotation to either side, in degrees.
        scale: Largest factor of enlargement, and of reduction; at least 1.
        stretch: Largest ratio of the scales of the two axes, at least 1.
        translation: Largest displacement along an axis, as a fraction of the side.

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
    rows = [torch.stack([cos * axis_x, -sin * axis_y, uniform(2 * translation)], dim=1),
            torch.stack([sin * axis_x, cos * axis_y, uniform(2 * translation)], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(img.device), list(img.shape), align_corners=False)
    stacked = F.grid_sample(torch.cat([img, target], dim=1), grid, mode="bilinear", padding_mode="reflection",
                            align_corners=False)
    return stacked[:, :3], stacked[:, 3:]


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
    soft = (0.7 * torch.rand(num, 1, 1, 1, generator=generator)) * (torch.rand(num, 1, 1, 1, generator=generator) < 0.5)
    blurred = F.avg_pool2d(F.pad(img, [detail] * 4, mode="replicate"), 2 * detail + 1, stride=1)
    noise = 0.06 * torch.rand(num, 1, 1, 1, generator=generator) * torch.randn(img.shape, generator=generator)
    soft, gain, offset, noise = (value.to(img.device) for value in (soft, gain, offset, noise))
    return ((img + soft * (blurred - img)) * gain + offset + noise).clamp(-1, 1)
