"""What keeps a mask large enough, binary, off the border, in the middle and apart from other masks.

Section 3.2 of the paper: equations 3 and 4; the others are ours. Masks are opacities [N, K, H, W], in [0, 1], of K
objects in N scenes, each object with terms of its own; another number of dimensions is a ValueError there.
"""

import torch

from layered_plugin.model.layers import Layers

SIZE_OVER = ("picture", "batch")  # What eq. 3 takes the mean opacity over.
CELLS = 8  # Parts of the picture along each axis whose mean masks are compared.


def mask_size_loss(mask: torch.Tensor, min_coverage: float, over: str = "picture") -> torch.Tensor:
    """Penalize masks that cover less than a minimum share of the image (Eq. 3).

    Args:
        mask: Opacity of each object.
        min_coverage: Smallest mean opacity that costs nothing (the paper's eta), in [0, 1].
        over: What the mean opacity is taken over: each ``picture``, as the equation is printed, or the ``batch``, as
            the paper's text explains it: then small objects cost nothing among large ones.

    Returns:
        Hinge per mask, [N, K]; zero where the mean is at least min_coverage. Over the batch it is the same for all
        of its scenes. The expectation is the caller's.

    Raises:
        ValueError: If min_coverage is outside [0, 1], or over is neither.
    """
    _check_mask(mask)
    if not 0 <= min_coverage <= 1:
        raise ValueError(f"Expected argument `min_coverage` to be in [0, 1], but got {min_coverage}")
    return (min_coverage - _mean_mask(mask, over)).clamp(min=0)


def mask_binary_loss(mask: torch.Tensor) -> torch.Tensor:
    """Penalize half-transparent masks (Eq. 4): mean over the pixels of min(m, 1 - m), [N, K], in [0, 0.5]."""
    _check_mask(mask)
    return torch.minimum(mask, 1 - mask).mean(dim=[2, 3])


def mask_excess_loss(mask: torch.Tensor, max_coverage: float) -> torch.Tensor:
    """Penalize masks that cover more than a maximum share of the image; ours, the counterpart of Eq. 3.

    Returns the hinge per mask, [N, K]; zero where the mean is at most max_coverage. Errors as of ``mask_size_loss``.
    """
    return mask_size_loss(1 - mask, 1 - max_coverage)


def mask_variety_loss(mask: torch.Tensor, min_variety: float) -> torch.Tensor:
    """Penalize batches whose masks are alike; ours, not the paper's.

    Compared are mean masks of ``CELLS`` x ``CELLS`` parts of the picture, so that noisy outlines are no variety. Their
    deviation over the batch, averaged over the parts, is measured by the largest that masks of this coverage q can
    have, sqrt(q (1 - q)): so the same bound does for small and large objects.

    Args:
        mask: Opacity of each object, N at least 2.
        min_variety: Least deviation that costs nothing, as a share of the largest, in [0, 1].

    Returns:
        Hinge of the batch, per object, [K], in units of the deviation.
    """
    _check_mask(mask)
    cell_means = torch.nn.functional.adaptive_avg_pool2d(mask, CELLS).flatten(2)  # [N, K, CELLS * CELLS]
    # The root of a variance has no slope at zero, where a batch of equal masks is.
    deviation = (cell_means.var(dim=0, unbiased=False) + 1e-6).sqrt().mean(dim=1)  # [K]
    coverage = mask.detach().mean(dim=[0, 2, 3])
    return (min_variety * (coverage * (1 - coverage)).sqrt() - deviation).clamp(min=0)


def mask_border_loss(mask: torch.Tensor) -> torch.Tensor:
    """Penalize masks that reach the border of the image; ours, not the paper's.

    A mask that is cut off by the border cannot be shifted without showing the cut, and a mask with background and
    object the wrong way round always reaches the border: the term tells figure from ground.

    Returns:
        Mean mask over the outermost pixels, per mask, [N, K], in [0, 1].
    """
    _check_mask(mask)
    ring = [mask[:, :, 0], mask[:, :, -1], mask[:, :, 1:-1, 0], mask[:, :, 1:-1, -1]]
    return torch.cat(ring, dim=2).mean(dim=2)


def mask_center_loss(mask: torch.Tensor) -> torch.Tensor:
    """Penalize batches whose masks leave out the middle of the picture; ours, not the paper's.

    Where a generator draws the objects into the background, its masks are pieces of ground beside them. They can keep
    off the border, so that the term for it does not tell. Objects are in the middle more often than elsewhere.

    Returns:
        Hinge of the batch, a scalar in [0, 1]: how far the mean mask of all objects over the middle half of each side
        is below that over the whole picture; zero for any batch whose masks are as dense in the middle or denser.
    """
    _check_mask(mask)
    return (mask.mean() - middle_of(mask).mean()).clamp(min=0)


def middle_of(mask: torch.Tensor) -> torch.Tensor:
    """The middle half of each side, [N, K, H / 2, W / 2] of [N, K, H, W], H and W at least 4."""
    top, left = mask.shape[2] // 4, mask.shape[3] // 4
    return mask[:, :, top:-top, left:-left]


def mask_overlap_loss(mask: torch.Tensor) -> torch.Tensor:
    """Penalize masks of several objects that cover the same pixels; ours, not the paper's.

    Returns:
        Mean over the pixels of m_i * m_j, summed over the pairs of objects, per image, [N]; zero for K = 1.
    """
    pairs = (mask.sum(dim=1).square() - mask.square().sum(dim=1)) / 2  # [N, H, W]
    return pairs.mean(dim=[1, 2])


def layer_range_loss(layers: Layers) -> torch.Tensor:
    """Penalize layers that leave [-1, 1] where no picture is shown to the discriminator to say so; ours.

    Returns:
        Mean of max(0, |x| - 1) over the background's and foregrounds' values, per scene, [N].
    """
    return (torch.cat([layers.bg, layers.fg], dim=1).abs() - 1).clamp(min=0).mean(dim=[1, 2, 3])


def _mean_mask(mask: torch.Tensor, over: str) -> torch.Tensor:
    """Mean opacity of each mask, or of each object over the batch, [N, K]."""
    if over not in SIZE_OVER:
        raise ValueError(f"Expected argument `over` to be one of {SIZE_OVER}, but got {over!r}")
    means = mask.mean(dim=[2, 3])
    return means if over == "picture" else means.mean(dim=0).expand_as(means)


def _check_mask(mask: torch.Tensor) -> None:
    if mask.ndim != 4:
        raise ValueError(f"Expected argument `mask` to be [N, K, H, W], but got {list(mask.shape)}")
