"""Confidence of a mask: the IoU to be expected if opacities are chances of object."""

import numpy as np
import pytest

from layered_plugin.segmentation.full_size import expected_iou


@pytest.mark.parametrize("opacity, expected", [
    ([[1, 1], [0, 0]], 1), ([[0, 0], [0, 0]], 0), ([[0.4, 0.4], [0.1, 0]], 0), ([[0.5, 0.5], [0.5, 0.5]], 0.5),
    ([[0.9, 0.1], [0, 0]], 0.9 / 1.1), ([[1, 0.8], [0.3, 0.1]], 1.8 / 2.4),
])
def test_confidence_is_expected_intersection_by_expected_union(opacity, expected):
    assert expected_iou(np.array(opacity, np.float32)) == pytest.approx(expected, abs=1e-6)


def test_confidence_is_the_iou_with_objects_drawn_by_the_opacities():
    random = np.random.RandomState(0)
    opacity = random.beta(0.3, 0.5, [32, 32]).astype(np.float32)
    mask = opacity >= 0.5
    objects = random.rand(2000, 32, 32) < opacity
    drawn = (objects & mask).sum() / (objects | mask).sum()
    assert expected_iou(opacity) == pytest.approx(drawn, abs=2e-3)


def test_confidence_does_not_depend_on_the_resolution():
    opacity = np.random.RandomState(1).rand(8, 8).astype(np.float32)
    assert expected_iou(opacity.repeat(4, axis=0).repeat(4, axis=1)) == pytest.approx(expected_iou(opacity))
