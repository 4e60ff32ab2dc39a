"""Objects of real pictures on the ground of others: the same objects at sizes and places that the data set lacks.

Not in the paper. Self-training alone loses small objects: what a network hardly sees, its targets hardly show. An
object that is cut out well and pasted elsewhere has an exact mask at any size.
"""

import math

import torch
from torch.nn import functional as F

from layered_plugin.model.layers import Layers, composite
from layered_plugin.segmentation.augment import clean_edges, detail_of, unstretch

SIZE = (0.4, 1.2)  # Least and largest factor, of lengths.
STRETCH = 2.0  # Largest factor of an axis, by which the other is squeezed: thin objects are rare as well.
PLACE = 0.25  # Largest distance of the object's center from the picture's along an axis, by the side.


def paste_objects(img: torch.Tensor, mask: torch.Tensor,
                  generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the object of each picture, larger or smaller and stretched, on the ground of the one before it.

    That one's own object is filled in.

    Args:
        img: Pictures, [N, 3, S, S], in [-1, 1].
        mask: Their objects, [N, 1, S, S], 0 or 1.
        generator: Source of randomness, on the CPU.

    Returns:
        Pictures [N, 3, S, S] in [-1, 1] and masks [N, 1, S, S] in [0, 1], by bilinear interpolation.
    """
    num, detail = len(img), detail_of(img.shape[-1])

    def uniform(low: float, high: float) -> torch.Tensor:
        return (low + (high - low) * torch.rand([num, 1, 1], generator=generator)).to(img.device)

    identity = torch.eye(2, 3, device=img.device).expand(num, -1, -1)
    grid = F.affine_grid(identity, list(mask.shape), align_corners=False)  # [N, S, S, 2]
    weight = mask[:, 0, :, :, None]
    center = (grid * weight).sum(dim=[1, 2], keepdim=True) / weight.sum(dim=[1, 2], keepdim=True).clamp(min=1)
    size = torch.exp(uniform(math.log(SIZE[0]), math.log(SIZE[1])))
    dx, dy = (grid[..., axis] - uniform(-2 * PLACE, 2 * PLACE) for axis in (0, 1))
    where = center + unstretch(dx, dy, uniform(0, math.pi), torch.exp(uniform(0, math.log(STRETCH)))) / size[..., None]

    ground = fill_in(img, F.max_pool2d(mask, 4 * detail + 1, stride=1, padding=2 * detail))  # The rim goes as well.
    layers = clean_edges(Layers(ground.roll(1, 0), img, mask), 3 * detail)
    fg = F.grid_sample(layers.fg, where, padding_mode="border", align_corners=False)
    pasted = F.grid_sample(mask, where, padding_mode="zeros", align_corners=False)
    return composite(Layers(layers.bg, fg, pasted)), pasted


def fill_in(img: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Replace what lies in the hole by the colors around it, smoothly.

    Each level of a pyramid takes what it does not know from the next, which is half as fine (Gortler et al., The
    Lumigraph, 1996: push and pull).

    Args:
        img: Pictures, [N, C, S, S].
        hole: [N, 1, S, S], 1 inside, 0 outside.

    Returns:
        [N, C, S, S]; as given outside the hole. Where the hole takes all of a picture, 0.
    """
    known = 1 - hole
    if img.shape[-1] % 2 or img.shape[-1] == 2:
        mean = (img * known).sum(dim=[2, 3], keepdim=True) / known.sum(dim=[2, 3], keepdim=True).clamp(min=1e-6)
        return torch.where(known > 0, img, mean)
    share = F.avg_pool2d(known, 2)
    color = F.avg_pool2d(img * known, 2) / share.clamp(min=1e-6)
    coarse = fill_in(color, (share == 0).to(img.dtype))
    return known * img + hole * F.interpolate(coarse, scale_factor=2, mode="bilinear")
