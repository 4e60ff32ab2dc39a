"""Masks refined with the picture as guide: edges found, closed forms, and what must not change."""

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import scipy.ndimage

from layered_plugin.evaluation.boundary import boundary_f
from layered_plugin.segmentation import edges
from layered_plugin.segmentation.edges import foreground_colors, is_enlarged, sharpen_mask

RED, BLUE = np.array([200, 60, 40]), np.array([40, 80, 180])


def disk(height, width, radius=0.3):
    rows, columns = np.mgrid[:height, :width]
    return (rows / height - 0.5)**2 + (columns / width - 0.45)**2 < radius**2


def two_colors(truth, noise=15, seed=0):
    clean = np.where(truth[:, :, None], RED, BLUE)
    noisy = clean + np.random.RandomState(seed).normal(0, noise, clean.shape)
    return PIL.Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def small_mask(truth, side=16):
    """As a network of that side gives at best."""
    small = PIL.Image.fromarray(truth.astype(np.uint8) * 255).resize((side, side), PIL.Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) / 255


def stretched(mask, height, width):
    return np.asarray(PIL.Image.fromarray(mask).resize((width, height), PIL.Image.Resampling.BILINEAR))


@pytest.mark.parametrize("height, width", [(256, 256), (120, 300), (40, 33)])
def test_mask_follows_the_edge_that_the_network_can_not_see(height, width):
    truth = disk(height, width)
    moved = np.roll(small_mask(truth), 1, axis=1)  # The network is a pixel of its own off.
    found = sharpen_mask(two_colors(truth), moved)
    assert found.shape == truth.shape and found.dtype == np.float32 and 0 <= found.min() <= found.max() <= 1
    assert ((found >= 0.5) == truth).mean() > 0.98 > (((stretched(moved, height, width) >= 0.5) == truth).mean())
    assert boundary_f(found >= 0.5, truth) > 0.9


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_picture_of_one_color_changes_no_constant_mask(value):
    flat = PIL.Image.new("RGB", (96, 64), (120, 120, 120))
    found = sharpen_mask(flat, np.full([16, 16], value, np.float32), margin=0)
    np.testing.assert_allclose(found, found[0, 0], atol=1e-3)
    assert (found >= 0.5).all() == (value >= 0.5)


def test_mirrored_picture_gives_the_mirrored_mask():
    truth = disk(128, 128)
    picture, mask = two_colors(truth), small_mask(truth)
    found = sharpen_mask(picture, mask)
    mirrored = sharpen_mask(PIL.ImageOps.mirror(picture), np.ascontiguousarray(mask[:, ::-1]))
    np.testing.assert_allclose(mirrored, found[:, ::-1], atol=1e-3)


@pytest.mark.parametrize("size, enlarged", [((31, 31), False), ((32, 8), True), ((8, 32), True), ((36, 36), True)])
def test_only_pictures_of_twice_the_networks_side_are_refined(size, enlarged):
    assert is_enlarged(size, 16) is enlarged


def test_colors_of_the_edge_are_the_objects():
    columns = np.arange(64, dtype=np.float32)
    mask = np.tile(((40 - columns) / 4).clip(0, 1), (64, 1))
    picture = (mask[:, :, None] * RED + (1 - mask[:, :, None]) * BLUE).round().astype(np.uint8)
    found = np.asarray(foreground_colors(PIL.Image.fromarray(picture), mask))
    edge = (mask > 0) & (mask < 1)
    before, after = (np.abs(colors[edge].astype(float) - RED).mean() for colors in (picture, found))
    assert after < 0.1 * before
    np.testing.assert_array_equal(found[~edge], picture[~edge])


@pytest.mark.parametrize("estimate", [True, False])
def test_a_cut_out_shows_all_that_is_not_wholly_transparent_and_holds_nothing_else(estimate):
    random = np.random.RandomState(0)
    colors = PIL.Image.fromarray(random.randint(1, 256, [24, 30, 3], dtype=np.uint8))
    mask = random.rand(24, 30).astype(np.float32)
    opacity = (mask * 8).astype(np.uint8)  # 0 in an eighth of the picture, 1 and so on beside it.
    found = np.asarray(edges.cut_out(colors, mask, opacity, estimate))
    np.testing.assert_array_equal(found[:, :, 3], opacity)
    shown = foreground_colors(colors, mask) if estimate else colors
    np.testing.assert_array_equal(found[:, :, :3], np.asarray(shown) * (opacity > 0)[:, :, None])


@pytest.mark.parametrize("height, width", [(40, 25), (3, 9), (1, 1)])
def test_near_the_edge_is_where_a_window_has_both_sides(height, width):
    inside = np.random.RandomState(0).rand(height, width) < 0.02
    found = edges._near_edge(inside, 13)
    for row, column in np.ndindex(height, width):
        window = inside[max(row - 6, 0):row + 7, max(column - 6, 0):column + 7]
        assert found[row, column] == (window.any() and not window.all())


@pytest.mark.parametrize("window", [1, 3, 7, 9, 17])
@pytest.mark.parametrize("height, width", [(40, 25), (3, 9), (1, 1)])
def test_mean_of_a_window_is_scipys(window, height, width):
    values = np.random.RandomState(0).rand(2, height, width).astype(np.float32)
    expected = scipy.ndimage.uniform_filter(values.astype(float), (1, window, window), mode="nearest")
    np.testing.assert_allclose(edges._box_mean(values, window), expected, atol=1e-6)


def test_stretched_at_some_places_is_stretched_everywhere():
    values, size = np.random.RandomState(0).rand(6, 12, 16).astype(np.float32), (41, 64)
    places = np.array([0, 63, 64, 1000, 41 * 64 - 1])
    np.testing.assert_allclose(edges._stretch_to(values, size, places),
                               edges._stretch(values, size).reshape(6, -1)[:, places], atol=1e-5)


@pytest.mark.parametrize("height, width", [(375, 500), (512, 512), (90, 61)])
def test_reduced_picture_has_the_means_of_its_boxes(height, width):
    smooth = PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, [9, 9, 3], dtype=np.uint8))
    picture = smooth.resize((width, height), PIL.Image.Resampling.BICUBIC)
    pixels, small = np.asarray(picture), edges._reduce(picture, edges.GUIDE_PX)
    rows, columns = (np.linspace(0, side, num + 1) for side, num in zip((height, width), small.shape[1:], strict=True))
    for row, column in [(0, 0), (5, 17), (small.shape[1] - 1, small.shape[2] // 2)]:
        inside = [np.clip(np.arange(1, side + 1) - first, 0, 1) - np.clip(np.arange(1, side + 1) - last, 0, 1)
                  for side, first, last in ((height, rows[row], rows[row + 1]),
                                            (width, columns[column], columns[column + 1]))]
        mean = np.einsum("h,w,hwc->c", *inside, pixels) / inside[0].sum() / inside[1].sum()
        np.testing.assert_allclose(small[:, row, column] * 255, mean, atol=3)
