"""How many shapes of true masks are among generated ones."""

import torch
from torch import Tensor


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU of each mask with each other.

    Args:
        one: [N, H, W], bool.
        other: [M, H, W], bool.

    Returns:
        [N, M]; 0 for two empty masks.
    """
    a, b = one.flatten(1).float(), other.flatten(1).float()
    both = a @ b.t()
    return both / (a.sum(dim=1)[:, None] + b.sum(dim=1) - both).clamp(min=1)


def coverage_scores(true: Tensor, gen: Tensor, draws: int = 20) -> dict[str, float]:
    """Mean over the true masks of the best IoU, unaligned.

    Args:
        true: [N, H, W], bool.
        gen: [M, H, W], bool; M >= N - 1.
        draws: Random choices of as many generated masks as there are true ones beside one, averaged.

    Returns:
        ``coverage`` among all generated masks; ``coverage_few`` among N - 1 of them; ``coverage_true`` of each true
        mask among the N - 1 others; ``share``, the last but one over the last.
    """
    ious = pairwise_iou(true, gen)
    generator = torch.Generator().manual_seed(0)
    few = torch.stack([ious[:, torch.randperm(len(gen), generator=generator)[:len(true) - 1]].amax(dim=1).mean()
                       for _ in range(draws)]).mean()
    own = pairwise_iou(true, true).fill_diagonal_(0).amax(dim=1).mean()
    return dict(coverage=float(ious.amax(dim=1).mean()), coverage_few=float(few), coverage_true=float(own),
                share=float(few / own), num_true=len(true), num_gen=len(gen))
