"""Augmentation of generated scenes before they are composited: what only layers allow.

Not in the paper. Both make up for what a generator lacks after a short training: clean edges, and outlines that vary.
"""

import math

import torch
from torch.nn import functional as F

from layered_plugin.compose import Layers

LOBES = (2, 8)  # Least and largest number of petals of a bent outline.
LEAST_RADIUS = 0.35  # Of the factor by which an outline's radius changes, so that no outline folds.


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
    cos, sin = torch.cos(axis), torch.sin(axis)
    along, across = (cos * dx + sin * dy) * stretch, (cos * dy - sin * dx) / stretch
    bent = torch.stack([cos * along - sin * across, sin * along + cos * across], dim=3) * factor[..., None]
    ends = torch.cat([layers.mask[:, :, [0, -1]].flatten(1), layers.mask[:, :, :, [0, -1]].flatten(1)], dim=1)
    whole = (ends <= 0.5).all(dim=1)[:, None, None, None]
    chosen = (uniform(0, 1)[..., None] < prob) & whole
    where = torch.where(chosen, center + bent, grid)
    fg = F.grid_sample(layers.fg, where, padding_mode="border", align_corners=False)
    mask = F.grid_sample(layers.mask, where, padding_mode="zeros", align_corners=False)
    return layers._replace(fg=fg, mask=mask)
