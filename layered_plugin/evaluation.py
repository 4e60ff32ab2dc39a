"""Score masks against the truth: IoU and accuracy; no files, no printing (paper, section 4).

Polarity is part of the result: object pixels are True, and only `oracle_polarity` ever swaps them.
"""

import torch


def iou(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each picture.

    Args:
        pred: Predicted object pixels, [N, H, W], bool.
        target: True object pixels, [N, H, W], bool.

    Returns:
        [N], float64, in [0, 1]; 1 where both masks are empty, for then nothing was missed and nothing invented.

    Raises:
        ValueError: If either is not bool [N, H, W] or the shapes differ.
    """
    _check(pred, target)
    intersection = (pred & target).sum(dim=(1, 2), dtype=torch.float64)
    union = (pred | target).sum(dim=(1, 2), dtype=torch.float64)
    return torch.where(union > 0, intersection / union.clamp(min=1), torch.ones_like(union))


def mean_iou(pred: torch.Tensor, target: torch.Tensor) -> float:
    """Mean over the pictures of `iou`; arguments and errors as there."""
    return iou(pred, target).mean().item()


def pooled_iou(pred: torch.Tensor, target: torch.Tensor) -> float:
    """Intersection summed over the whole set by the union summed over it, 1 if all masks are empty; see `iou`."""
    _check(pred, target)
    union = int((pred | target).sum())
    return int((pred & target).sum()) / union if union else 1.0


def pixel_accuracy(pred: torch.Tensor, target: torch.Tensor) -> float:
    """Share of all pixels of the set that are labelled right, in [0, 1]; arguments and errors as in `iou`."""
    _check(pred, target)
    return int((pred == target).sum()) / target.numel()


def full_mask_iou(target: torch.Tensor) -> float:
    """Mean IoU of predicting object everywhere: the score to beat.

    Args:
        target: True object pixels, [N, H, W], bool.

    Returns:
        Number in [0, 1].

    Raises:
        ValueError: If the target is not bool [N, H, W].
    """
    return mean_iou(torch.ones_like(target), target)


def mask_scores(pred: torch.Tensor, target: torch.Tensor, oracle_polarity: bool = False) -> dict[str, float | bool]:
    """All scores of a set of masks.

    Args:
        pred: Predicted object pixels, [N, H, W], bool.
        target: True object pixels, [N, H, W], bool.
        oracle_polarity: Swap object and background of the whole set if that gives the higher mean IoU. This uses
            the truth, so such scores are no measure of an unsupervised method; the default never swaps.

    Returns:
        `mean_iou`, `pooled_iou`, `pixel_accuracy`, `full_mask_iou`, `pred_coverage`, `target_coverage` in [0, 1],
        and whether the prediction was `inverted`.

    Raises:
        ValueError: If either is not bool [N, H, W] or the shapes differ.
    """
    inverted = oracle_polarity and mean_iou(~pred, target) > mean_iou(pred, target)
    pred = ~pred if inverted else pred
    return {
        "mean_iou": mean_iou(pred, target),
        "pooled_iou": pooled_iou(pred, target),
        "pixel_accuracy": pixel_accuracy(pred, target),
        "full_mask_iou": full_mask_iou(target),
        "pred_coverage": pred.double().mean().item(),
        "target_coverage": target.double().mean().item(),
        "inverted": inverted,
    }


def _check(pred: torch.Tensor, target: torch.Tensor) -> None:
    for name, mask in (("pred", pred), ("target", target)):
        if mask.dtype != torch.bool or mask.ndim != 3 or mask.numel() == 0:
            raise ValueError(
                f"Expected argument `{name}` to be bool [N, H, W] and not empty, "
                f"but got {mask.dtype} {list(mask.shape)}"
            )
    if pred.shape != target.shape:
        raise ValueError(
            f"Expected argument `pred` to have the target's shape {list(target.shape)}, but got {list(pred.shape)}"
        )
