"""How varied and how sound the outlines of masks are, against those of real pictures; no trained judge, no download.

The IoU of a generated mask with a judge's says nothing of it: a generator with one outline for all scenes can score
as well as one with many.
"""

from typing import Any

import torch

from layered_plugin.data.masks import THRESHOLD


def best_ious(masks: torch.Tensor, others: torch.Tensor, chunk: int = 500) -> torch.Tensor:
    """IoU of each mask with the one of the others that is most like it, where both stand.

    Args:
        masks: [M, H, W], object from ``THRESHOLD`` on.
        others: [N, H, W], likewise, N at least 1.
        chunk: Masks at a time.

    Returns:
        [M], in [0, 1]. Two empty masks have IoU 1.

    Intersections of all pairs are one matrix product.
    """
    binary, other_binary = ((stack.flatten(1) >= THRESHOLD).float() for stack in (masks, others))
    areas = other_binary.sum(dim=1)
    best = []
    for part in binary.split(chunk):
        shared = part @ other_binary.T  # [chunk, N]
        union = part.sum(dim=1, keepdim=True) + areas - shared
        best.append(torch.where(union > 0, shared / union.clamp(min=1), 1.0).amax(dim=1))
    return torch.cat(best)


def spread(masks: torch.Tensor) -> dict[str, float]:
    """Figures of one set of masks [N, H, W], in [0, 1], alone; no truth is needed.

    Returns:
        `variation`: standard deviation of a mask pixel over the masks, averaged over the pixels; 0 = one outline for
        all. `area`: mean coverage. `area_deviation`: standard deviation of the coverage. Masks are binarised first.
    """
    binary = (masks >= THRESHOLD).float()
    areas = binary.mean(dim=[1, 2])
    return dict(variation=float(binary.std(dim=0, unbiased=False).mean()), area=float(areas.mean()),
                area_deviation=float(areas.std(unbiased=False)))


def compare_masks(generated: torch.Tensor, real: torch.Tensor, num_queries: int = 500) -> dict[str, Any]:
    """Coverage and precision of outlines, beside what real masks reach among themselves.

    Args:
        generated: [N, H, W], in [0, 1].
        real: Masks of real pictures, [M, H, W], in [0, 1], M at least 2; at the same size.
        num_queries: Masks that are looked for on the other side, at most; but no more than half of the real ones.

    Returns:
        `generated` and `real`: each `coverage` (mean over real masks of the best IoU among the generated ones; for
        `real` among other real ones), `precision` (the other way round) and the figures of ``spread``. `share`: each
        figure of `generated` by that of `real`. `num_queries`, `num_compared`: the masks looked for and those looked
        through, equally many on both sides, since more masks find better matches.

    Raises:
        ValueError: The sizes differ, or there are too few masks.
    """
    if generated.shape[1:] != real.shape[1:]:
        raise ValueError(f"Expected masks of one size, but got {list(generated.shape[1:])} and {list(real.shape[1:])}")
    if len(real) < 2 or len(generated) < 1:
        raise ValueError(f"Expected at least 2 real and 1 generated mask, but got {len(real)} and {len(generated)}")
    num_queries = min(num_queries, len(real) // 2, len(generated))
    queries, rest = real[:num_queries], real[num_queries:]
    num_compared = min(len(rest), len(generated))
    rest = rest[:num_compared]
    figures = dict(coverage=float(best_ious(queries, generated[:num_compared]).mean()),
                   precision=float(best_ious(generated[:num_queries], rest).mean()), **spread(generated))
    floor = float(best_ious(queries, rest).mean())
    reference = dict(coverage=floor, precision=floor, **spread(real))
    share = {name: figures[name] / reference[name] if reference[name] > 0 else None for name in figures}
    return dict(generated=figures, real=reference, share=share, num_queries=num_queries, num_compared=num_compared)
