"""Several objects in one drawn picture: order, visible parts, room, labels."""

import numpy as np
import pytest

from layered_plugin.errors import CrowdedError
from layered_plugin.synthetic.occlusion import PlacedObject, label_picture, overlay, place_objects, visible_parts


def _objects(num: int, size: int = 6, seed: int = 0) -> list[PlacedObject]:
    rng = np.random.default_rng(seed)
    alphas = rng.random((num, size, size))
    return [PlacedObject(rng.random((size, size, 3)) * alpha[:, :, None], alpha) for alpha in alphas]


def _square(left: int, opacity: float = 1.0, size: int = 8) -> PlacedObject:
    alpha = np.zeros((size, size))
    alpha[2:6, left : left + 4] = opacity
    return PlacedObject(np.repeat(alpha[:, :, None], 3, axis=2), alpha)


def test_overlay_equals_one_object_after_the_other_pixel_by_pixel() -> None:
    objects, bg = _objects(3), np.random.default_rng(1).random((6, 6, 3))
    fg, alpha = overlay(objects)
    together = fg + bg * (1 - alpha)[:, :, None]
    for y, x, c in np.ndindex(6, 6, 3):
        value = bg[y, x, c]
        for one in objects:
            value = one.fg[y, x, c] + (1 - one.alpha[y, x]) * value
        assert together[y, x, c] == pytest.approx(value)


def test_visible_parts_add_up_to_the_whole() -> None:
    objects = _objects(3)
    parts = visible_parts([one.alpha for one in objects])
    assert np.allclose(parts.sum(axis=0), overlay(objects).alpha)
    assert np.allclose(parts[2], objects[2].alpha)
    assert np.allclose(parts[0], objects[0].alpha * (1 - objects[1].alpha) * (1 - objects[2].alpha))


def test_labels_are_the_visible_object_where_half_is_covered() -> None:
    objects = [_square(0), _square(2), _square(4, 0.4)]
    labels = label_picture(objects)
    assert labels.dtype == np.uint8
    assert labels[3].tolist() == [1, 1, 2, 2, 2, 2, 0, 0], "the third object is the fainter one everywhere"
    assert np.array_equal(labels > 0, np.rint(overlay(objects).alpha * 255) >= 128)


def test_one_object_is_drawn_once_and_taken_even_if_empty() -> None:
    calls: list[int] = []

    def draw() -> PlacedObject:
        calls.append(1)
        return PlacedObject(np.zeros((4, 4, 3)), np.zeros((4, 4)))

    assert len(place_objects(draw, 1)) == 1 and len(calls) == 1


def test_objects_that_hide_too_much_are_drawn_again() -> None:
    lefts = iter([0, 1, 2, 3, 4])  # The hidden share of the first is 3/4, 2/4, then 1/4.
    objects = place_objects(lambda: _square(next(lefts)), 2)
    assert [int(one.alpha[3].argmax()) for one in objects] == [0, 3]


def test_a_crowd_is_an_error() -> None:
    with pytest.raises(CrowdedError, match="no room for object 2 of 3 in 100 draws"):
        place_objects(lambda: _square(1), 3)
