"""Colors of object and ground: where a mask and the picture's colors disagree, the likelier of the two.

Not in the paper. What a network is unsure of is told apart by color as soon as most of the mask is right: the idea of
GrabCut (Rother et al., 2004), here with densities in place of mixtures, and for a whole batch.
"""

import math
from typing import Any

import torch
from torch.nn import functional as F

BANDWIDTH, BINS = 0.08, 24  # Of a channel in [-1, 1]: standard deviation of the kernel, how finely it is told apart.
MARGIN = 0.2  # Of the side, along each border: how far in objects are less likely, where nothing says more.
RARE = 0.25  # Object there, of what is object in the likeliest place: less is rare (`rare_border`).
ROUNDS = 4  # The densities are first those of the mask, then those of what came out so far.
LEAST_PRIOR, LEAST_DENSITY, LARGEST_LOG_RATIO = 0.02, 1e-5, 6.0  # So far, colors may overrule the mask.
TIE, TIE_BANDWIDTH, TIE_ROUNDS = 2.0, 0.2, 8  # Between neighbours of one color, in log odds.
LEAST_WEIGHT = 1e-16  # Of the kernel; less is 0, since processors are slow with the tiniest numbers.

_CHUNK = 16  # Pictures at a time: their tables of colors should stay in the cache.


def correct_by_colors(img: torch.Tensor, mask: torch.Tensor, margin: float = MARGIN) -> torch.Tensor:
    """A mask in which pixels are object where their colors are the object's, and as their neighbours are.

    Args:
        img: Pictures, [N, 3, H, W], in [-1, 1].
        mask: Opacities, [N, 1, H, W], in [0, 1].
        margin: In which they count for less (`likely_place`), by the side; 0 = none.

    Returns:
        Probability of object, [N, 1, H, W], float32.
    """
    mask = mask * likely_place(mask.shape[2], mask.shape[3], margin).to(mask.device)
    parts = zip(img.float().split(_CHUNK), mask.float().split(_CHUNK), strict=True)
    return torch.cat([tie_neighbours(part, color_posterior(part, soft)) for part, soft in parts])


def likely_place(height: int, width: int, margin: float) -> torch.Tensor:
    """How far what a network says of each pixel is to be believed: objects lie inside their pictures.

    A shift that the generator cannot know leaves only such objects whole (paper, Section 3), and a network that errs
    mostly takes along something of the ground, which goes on beyond the border.

    Returns:
        [H, W]: distance of the pixel's center from the nearest border, each axis in units of its side, divided by the
        margin, in [0, 0.5]; at most 1. Without a margin 1 everywhere.
    """
    kind: dict[str, Any] = dict(dtype=torch.float32, device="cpu")  # Whatever PyTorch's defaults are.
    if margin == 0:
        return torch.ones(height, width, **kind)
    rows, columns = (((torch.minimum(idx, idx.flip(0)) + 0.5) / (size * margin)).clamp(max=1)
                     for size, idx in ((size, torch.arange(size, **kind)) for size in (height, width)))
    return torch.minimum(rows[:, None], columns)


def rare_border(mask: torch.Tensor) -> float:
    """How wide the border is in which the pictures of a set rarely show the object: a margin for `likely_place`.

    Garments and fruit mostly lie inside their pictures, flowers seen from near go on beyond the border. The masks of
    many pictures know, for all their errors.

    Args:
        mask: Opacities of pictures of the set, [N, 1, S, S], in [0, 1]; N at least 1.

    Returns:
        Distance from the nearest border, in [0, 0.5] by the side, from which on the share of object pixels is at least
        `RARE` of the largest at any distance; between the pixels' centers by a straight line. 0 where there is no
        object at all.
    """
    share = (mask[:, 0] > 0.5).float().mean(dim=0)  # [S, S]
    idx = torch.arange(len(share), device=mask.device)
    near = torch.minimum(idx, idx.flip(0))
    ring = torch.minimum(near[:, None], near).flatten()  # Pixels up to the nearest border.
    rings = [share.flatten()[ring == number].mean().item() for number in range((len(share) + 1) // 2)]
    least = RARE * max(rings)
    first = next(number for number, value in enumerate(rings) if value >= least)
    if first == 0:
        return 0.0
    return (first - 0.5 + (least - rings[first - 1]) / (rings[first] - rings[first - 1])) / len(share)


def color_posterior(img: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Probability of object at each pixel, given its color and what the mask says of it.

    Bayes' rule, pixel by pixel. The prior is the mask; the likelihoods are the densities of the object's and of the
    ground's colors over the whole picture: histograms blurred by a Gaussian kernel, in which a pixel counts by the
    square of the mask, and of its rest to 1, so that what is half and half counts for little.

    On CUDA, histograms are summed in no fixed order, so that last bits differ from call to call.

    Args:
        img: Pictures, [N, 3, H, W], in [-1, 1].
        mask: Opacities, [N, 1, H, W], in [0, 1].

    Returns:
        [N, 1, H, W], in [0, 1]. A mask that is 0 or 1 everywhere stays on its side.
    """
    num = len(img)
    levels = ((img.clamp(-1, 1) + 1) / 2 * (BINS - 1)).round()  # [N, 3, H, W]
    color = ((levels[:, 0] * BINS + levels[:, 1]) * BINS + levels[:, 2]).flatten(1).long()  # [N, P]
    color = color[:, None].expand(-1, 2, -1)
    posterior = mask.clamp(LEAST_PRIOR, 1 - LEAST_PRIOR)
    prior = posterior.logit()
    for _ in range(ROUNDS):
        weight = torch.stack([posterior.flatten(1), 1 - posterior.flatten(1)], dim=1).square()  # [N, 2, P]
        table = weight.new_zeros([num, 2, BINS**3]).scatter_add_(2, color, weight / weight.sum(2, keepdim=True))
        density = _blur(table.reshape(num, 2, BINS, BINS, BINS)).flatten(2).gather(2, color)
        of_object, of_ground = (density + LEAST_DENSITY).unbind(1)  # [N, P]
        ratio = (of_object / of_ground).log().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
        posterior = torch.sigmoid(prior + ratio.view_as(prior))
    return posterior


def _blur(table: torch.Tensor) -> torch.Tensor:
    """Tables of colors [N, K, R, G, B] under a Gaussian kernel of height 1."""
    level = torch.linspace(-1, 1, BINS, dtype=table.dtype, device=table.device)
    kernel = torch.exp((level[:, None] - level).square() / (-2 * BANDWIDTH**2))
    kernel = torch.where(kernel < LEAST_WEIGHT, 0.0, kernel)
    blurred = kernel @ (table @ kernel)  # Green and blue; the kernel is symmetric.
    return (kernel @ blurred.flatten(3)).view_as(table)


def tie_neighbours(img: torch.Tensor, prob: torch.Tensor) -> torch.Tensor:
    """Let each pixel follow its eight neighbours, the more the less their colors differ.

    Mean field of a Potts model with the contrast term of Boykov and Jolly (2001): log odds are those given, and to them
    2 p - 1 of each neighbour by exp(-|difference of colors|^2 / (2 sigma^2)) over its distance.

    Args:
        img: Pictures, [N, 3, H, W], in [-1, 1].
        prob: Of object, [N, 1, H, W].

    Returns:
        Of object, [N, 1, H, W].
    """
    height, width = img.shape[2:]
    steps = [(dy, dx) for dy in (0, 1, 2) for dx in (0, 1, 2) if (dy, dx) != (1, 1)]

    def neighbours(values: torch.Tensor) -> list[torch.Tensor]:  # [N, C, H, W] each, views of one copy.
        padded = F.pad(values, [1, 1, 1, 1], mode="replicate")
        rows = padded.unfold(2, height, 1).unfold(3, width, 1).unbind(2)
        views = [view for row in rows for view in row.unbind(2)]
        return views[:4] + views[5:]  # Without the pixel itself.

    ties = [(beside - img).square().sum(dim=1, keepdim=True).mul_(-0.5 / TIE_BANDWIDTH**2).exp_()
            .mul_(TIE / math.hypot(dy - 1, dx - 1)) for (dy, dx), beside in zip(steps, neighbours(img), strict=True)]
    prob = prob.clamp(1e-3, 1 - 1e-3)
    given = prob.logit() - sum(ties)  # If p is 0 in all neighbours.
    for _ in range(TIE_ROUNDS):
        odds = given.clone()
        for tie, beside in zip(ties, neighbours(prob), strict=True):
            odds.addcmul_(tie, beside, value=2)
        prob = odds.sigmoid()
    return prob
