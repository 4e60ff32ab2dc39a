"""Squares about bounding boxes, and pictures and masks that stay on top of each other."""

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layered_plugin.data.masks import square_mask
from layered_plugin.data.pictures import box_about, inner_box, square_picture, to_letterbox


@settings(max_examples=200, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.05, 1),
       st.floats(0.05, 1), st.floats(0, 1))
def test_a_box_stays_inside_is_square_where_it_can_be_and_holds_the_object(width, height, x, y, w, h, margin):
    box = (x * width, y * height, min(w, 1 - x) * width, min(h, 1 - y) * height)
    part = box_about(box, margin, (width, height))
    assert 0 <= part.left < part.right <= width and 0 <= part.top < part.bottom <= height
    side = round(max(box[2], box[3]) * (1 + 2 * margin))
    assert part.right - part.left == min(max(side, 1), width)
    assert part.bottom - part.top == min(max(side, 1), height)
    # The object may stick out by half a pixel of rounding on either side.
    assert part.left <= box[0] + 1 and part.right >= box[0] + box[2] - 1
    assert part.top <= box[1] + 1 and part.bottom >= box[1] + box[3] - 1


@pytest.mark.parametrize("box, margin, size, expected", [
    ((40, 30, 20, 10), 0.0, (100, 80), (40, 25, 60, 45)),    # as wide as the box, about its centre
    ((40, 30, 20, 10), 0.25, (100, 80), (35, 20, 65, 50)),   # half as large again
    ((0, 0, 20, 10), 0.5, (100, 80), (0, 0, 40, 40)),        # moved in from the corner
    ((70, 60, 30, 20), 0.0, (100, 80), (70, 50, 100, 80)),
    ((10, 10, 80, 20), 0.25, (100, 80), (0, 0, 100, 80)),    # larger than the picture along both axes
    ((10, 10, 80, 20), 0.05, (100, 80), (6, 0, 94, 80)),     # along one
])
def test_known_boxes(box, margin, size, expected):
    assert box_about(box, margin, size) == expected


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 5, -1), (100, 0, 5, 5), (-9, 0, 5, 5), (float("nan"), 0, 5, 5)])
def test_boxes_of_nothing_are_refused(box):
    with pytest.raises(ValueError, match="is empty or outside the picture, which is 100x80"):
        box_about(box, 0.1, (100, 80))


@pytest.mark.parametrize("fit", ["squeeze", "crop"])
@pytest.mark.parametrize("size", [(64, 64), (90, 60), (33, 77)])
def test_mask_and_picture_of_it_agree(fit, size):
    width, height = size
    y, x = np.mgrid[:height, :width]
    mask = ((x - 0.55 * width) / (0.3 * width)) ** 2 + ((y - 0.4 * height) / (0.25 * height)) ** 2 < 1
    picture = PIL.Image.fromarray(np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2))
    out = square_picture(picture, 24, fit)
    opacity = square_mask(mask, 24, fit)
    assert out.shape == (24, 24, 3) and opacity.shape == (24, 24) and opacity.dtype == np.uint8
    assert abs(out[:, :, 0].astype(int) - opacity).mean() < 4


def test_a_mask_keeps_its_share_of_the_picture_and_is_white_inside():
    mask = np.zeros([120, 180], bool)
    mask[30:90, 60:120] = True
    squeezed, cropped = (square_mask(mask, 24, fit) for fit in ("squeeze", "crop"))
    assert squeezed.mean() / 255 == pytest.approx(1 / 6, abs=0.002)
    assert cropped.mean() / 255 == pytest.approx(1 / 4, abs=0.002)
    assert squeezed[12, 12] == cropped[12, 12] == 255 and squeezed[0, 0] == cropped[0, 0] == 0


def test_cropping_takes_the_middle_and_unchanged_squares_stay_exact():
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    assert np.array_equal(square_picture(picture, 8, "crop"), np.asarray(picture)[:, 2:10])
    square = picture.crop((0, 0, 8, 8))
    assert np.array_equal(square_picture(square, 8, "squeeze"), np.asarray(square))


def test_any_mode_becomes_rgb_and_other_fits_are_refused():
    assert square_picture(PIL.Image.new("LA", (5, 9)), 4, "squeeze").shape == (4, 4, 3)
    with pytest.raises(ValueError, match="`fit` to be one of squeeze, crop, but got 'stretch'"):
        square_picture(PIL.Image.new("RGB", (5, 9)), 4, "stretch")


@pytest.mark.parametrize("size, expected", [((400, 533), (4, 0, 28, 32)), ((533, 400), (0, 4, 32, 28)),
                                            ((7, 7), (0, 0, 32, 32)), ((1000, 3), (0, 15, 32, 16)),
                                            ((64, 62), (0, 0, 32, 31))])
def test_picture_keeps_its_proportions_in_the_middle_of_a_square(size, expected):
    assert inner_box(size, 32) == expected


def test_border_of_a_letterbox_goes_on_to_the_squares():
    colors = np.array([[10, 200], [90, 30], [60, 120], [250, 0]], np.uint8)  # 4 high, 2 wide.
    out = to_letterbox(PIL.Image.fromarray(colors), 4)
    assert out.shape == (3, 4, 4) and out.dtype == np.uint8
    np.testing.assert_array_equal(out[0], colors[:, [0, 0, 1, 1]])
    np.testing.assert_array_equal(out[0], out[2])


@pytest.mark.parametrize("size", [(500, 375), (150, 220), (64, 40)])
def test_letterbox_of_a_large_picture_is_what_the_whole_filter_gives_but_for_rounding(size):
    rough = np.random.RandomState(0).randint(0, 256, [12, 16, 3], dtype=np.uint8)
    picture = PIL.Image.fromarray(rough).resize(size, PIL.Image.Resampling.BICUBIC)
    box = inner_box(size, 32)
    whole = np.asarray(picture.resize((box.right - box.left, box.bottom - box.top), PIL.Image.Resampling.LANCZOS))
    inside = to_letterbox(picture, 32)[:, box.top:box.bottom, box.left:box.right].transpose(1, 2, 0)
    difference = np.abs(inside.astype(int) - whole)
    assert difference.mean() < 0.5 and difference.max() <= 4
