"""Boundary F of masks whose boundaries are known."""

import numpy as np
import pytest

from layered_plugin.evaluation import boundary
from layered_plugin.evaluation.boundary import boundary_f, boundary_pixels


def box(top, left, side, size=40):
    mask = np.zeros([size, size], bool)
    mask[top:top + side, left:left + side] = True
    return mask


def test_boundary_of_a_box_is_its_ring_and_the_border_of_the_picture_is_none():
    assert len(boundary_pixels(box(10, 10, 8))) == 4 * 8 - 4
    half = np.zeros([6, 9], bool)
    half[:3] = True
    np.testing.assert_array_equal(boundary_pixels(half), [[2, column] for column in range(9)])


@pytest.mark.parametrize("grown, expected", [(0, 1), (1, 1), (2, 1), (3, 0)])
def test_boxes_about_one_centre_agree_up_to_the_tolerance(grown, expected):
    # Of a box that is larger by 2, the corners and their neighbours lie sqrt(8) and sqrt(5) from the smaller one's.
    small, large = box(15, 15, 10), box(15 - grown, 15 - grown, 10 + 2 * grown)
    near = 4 * (10 + 2 * grown) - 4 - (12 if grown == 2 else 0)
    precision = near / (4 * (10 + 2 * grown) - 4) if expected else 0
    f = 2 * precision / (precision + 1) if expected else 0
    assert boundary_f(large, small) == pytest.approx(f)
    assert boundary_f(small, large) == pytest.approx(f)


def test_half_of_a_line_gives_precision_1_and_its_share_as_recall(monkeypatch):
    pred, target = np.zeros([30, 60], bool), np.zeros([30, 60], bool)
    target[10, 5:45] = True
    pred[10, 5:25] = True
    recall = (20 + 2) / 40  # Two more lie within two pixels of the end.
    assert boundary_f(pred, target) == pytest.approx(2 * recall / (1 + recall))
    monkeypatch.setattr(boundary, "TOLERANCE_PX", 0)
    assert boundary_f(pred, target) == pytest.approx(2 * 0.5 / 1.5)


def test_masks_without_a_boundary():
    empty, full, some = np.zeros([8, 8], bool), np.ones([8, 8], bool), box(2, 2, 3, 8)
    assert boundary_f(empty, empty) == boundary_f(empty, full) == 1
    assert boundary_f(empty, some) == boundary_f(some, full) == 0
