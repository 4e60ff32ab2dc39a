"""Scores of several objects per picture: masks are compared object by object, in the order that fits best.

The paper has one object; its Table 1 protocol, with a judge that tells objects apart.
"""

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from layered_plugin.data.masks import THRESHOLD
from layered_plugin.evaluation.judge import judge_objects
from layered_plugin.evaluation.metrics import Counts
from layered_plugin.model.layers import composite, visible_masks
from layered_plugin.model.scenes import draw_scenes
from layered_plugin.model.unet import AnyUNet


def matched_iou(pred: torch.Tensor, target: torch.Tensor) -> float:
    """Mean IoU of the objects of one picture under the best matching (Hungarian method).

    Args:
        pred: Masks of K objects, [K, H, W], bool; an empty one is no object.
        target: Masks of L objects, [L, H, W], bool; an empty one is no object.

    Returns:
        Sum of the IoU of the matched pairs by the larger number of objects, so that an object too many or too few
        counts as 0; 1 if there is no object in either.

    Raises:
        ValueError: If the masks are not bool or differ in size.
    """
    for name, masks in (("pred", pred), ("target", target)):
        if masks.dtype != torch.bool or masks.ndim != 3 or masks.shape[1:] != pred.shape[1:]:
            raise ValueError(f"Expected argument `{name}` to be bool [objects, {', '.join(map(str, pred.shape[1:]))}], "
                             f"but got {masks.dtype} {list(masks.shape)}")
    pred, target = (masks[masks.flatten(1).any(dim=1)] for masks in (pred, target))
    if len(pred) == 0 or len(target) == 0:
        return float(len(pred) == len(target))
    table = _iou(pred[:, None], target)  # [K, L]
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / max(table.shape))


@torch.no_grad()
def score_objects(G_ema: Any, judge: AnyUNet, *, num: int, seed: int, batch: int = 32) -> dict[str, Any]:
    """Compare what is visible of each object in generated scenes with the objects that a judge sees.

    Args:
        G_ema: Layered generator of K objects, in evaluation mode.
        judge: Judge that tells objects apart, on the generator's device.
        num: Number of scenes.
        seed: Of the latents, and of labels, every class equally likely.
        batch: Scenes at a time.

    Returns:
        `num`; `matched_iou`, mean over the scenes of ``matched_iou``; `union_iou`, that of all objects together;
        `one_mask_iou`, the matched IoU if the union were one object; `objects` and `judge_objects`, mean numbers per
        scene; `coverage`, mean visible share of each layer, from back to front; `overlap`, the mean share of a scene
        that at least two masks cover.
    """
    rows = []
    for layers in draw_scenes(G_ema, num, seed, batch=batch):
        target = judge_objects(judge, composite(layers).float().clamp(-1, 1)).cpu()
        pred = (visible_masks(layers) >= THRESHOLD).cpu()
        covered_twice = (layers.mask >= THRESHOLD).sum(dim=1) >= 2
        for masks, truths, twice in zip(pred, target, covered_twice, strict=True):
            union = masks.any(dim=0, keepdim=True)
            rows.append([matched_iou(masks, truths), float(_iou(union[0], truths.any(dim=0))),
                         matched_iou(union, truths), _count(masks), _count(truths), float(twice.float().mean()),
                         *masks.float().mean(dim=[1, 2]).tolist()])
    means = np.mean(rows, axis=0).tolist()
    names = ("matched_iou", "union_iou", "one_mask_iou", "objects", "judge_objects", "overlap")
    return dict(num=num, **dict(zip(names, means, strict=False)), coverage=means[len(names):])


def _iou(pred: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """IoU of masks [..., H, W], bool, whose shapes broadcast: [...]."""
    both, num_pred, num_target = (mask.sum(dim=(-2, -1)).numpy() for mask in (pred & target, pred, target))
    return Counts(both, num_pred, num_target, pred[..., 0, 0].numel()).iou


def _count(masks: torch.Tensor) -> int:
    return int(masks.flatten(1).any(dim=1).sum())
