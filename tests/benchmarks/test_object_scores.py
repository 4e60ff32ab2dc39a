"""Matching of objects, and scores of generated scenes object by object."""

import pytest
import torch
from torch import nn

from benchmarks.support.object_scores import matched_iou, score_objects
from layered_plugin.model.layers import Layers


def boxes(*places, size=8):
    """Masks of boxes (top, bottom, left, right), [K, size, size]."""
    masks = torch.zeros(len(places), size, size, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(masks, places, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def test_the_order_of_objects_means_nothing():
    target = boxes((0, 4, 0, 4), (5, 8, 5, 8), (0, 2, 6, 8))
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0]):
        assert matched_iou(target[order], target) == 1


def test_best_matching_is_that_of_the_largest_sum_not_the_greedy_one():
    target, pred = torch.zeros(2, 1, 10, dtype=torch.bool), torch.zeros(2, 1, 10, dtype=torch.bool)
    target[0, 0, :6] = target[1, 0, 6:] = True
    pred[0, 0, 1:9] = pred[1, 0, :3] = True
    # IoU of the first with both targets 5/9 and 3/9, of the second 3/6 and 0: the best single pair spoils the sum.
    assert matched_iou(pred, target) == pytest.approx((3 / 9 + 3 / 6) / 2)


@pytest.mark.parametrize("num_pred, num_target, expected", [(1, 2, 0.5), (2, 1, 0.5), (0, 2, 0), (2, 0, 0), (0, 0, 1)])
def test_missing_and_spare_objects_count_as_zero(num_pred, num_target, expected):
    both = boxes((0, 4, 0, 4), (5, 8, 5, 8))
    pred, target = both.clone(), both.clone()
    pred[num_pred:], target[num_target:] = False, False  # An empty mask is no object.
    assert matched_iou(pred, target) == expected


@pytest.mark.parametrize("target", [torch.zeros(2, 4, 4), boxes((0, 1, 0, 1), size=5)])
def test_other_masks_are_refused(target):
    with pytest.raises(ValueError, match="`target` to be bool"):
        matched_iou(boxes((0, 1, 0, 1), size=4), target)


class TwoBoxes(nn.Module):
    """Draws a red box behind a green one that hides its right half; the judge below finds each by its color."""

    z_dim, c_dim = 4, 0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z, c, **_kwargs):
        mask = boxes((1, 5, 0, 4), (1, 5, 2, 6)).float()
        fg = torch.full([6, 8, 8], -1.0)
        fg[0] = fg[4] = 1
        return Layers(torch.full([len(z), 3, 8, 8], -1.0), fg.expand(len(z), -1, -1, -1),
                      mask.expand(len(z), -1, -1, -1))


class ColorJudge(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, img):
        return img[:, [1, 0]]  # Green first: the judge's order is not the generator's.


def test_scores_are_of_what_is_visible_of_each_object():
    scores = score_objects(TwoBoxes(), ColorJudge(), num=5, seed=0, batch=2)
    assert scores["matched_iou"] == scores["union_iou"] == 1
    assert scores["one_mask_iou"] == pytest.approx(16 / 24 / 2)
    assert (scores["num"], scores["objects"], scores["judge_objects"]) == (5, 2, 2)
    assert scores["coverage"] == pytest.approx([8 / 64, 16 / 64])
    assert scores["overlap"] == pytest.approx(8 / 64)
