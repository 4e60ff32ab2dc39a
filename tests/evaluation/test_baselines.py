"""Baselines on drawn pictures whose object is known, and on pictures that give them nothing to hold on to."""

import builtins

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layered_plugin.errors import MissingLibraryError
from layered_plugin.evaluation.baselines import BASELINES, BOX_SHARE, GRABCUT_SHARE, center_box, grabcut


def disc(object_color=(220, 30, 40), ground=(20, 90, 160), size=32, noise=6):
    """A disc of radius 9 in the middle, and its mask."""
    yy, xx = np.mgrid[:size, :size] - (size - 1) / 2
    mask = yy**2 + xx**2 < 81
    rng = np.random.default_rng(0)
    picture = np.where(mask[..., None], object_color, ground) + rng.integers(-noise, noise + 1, (size, size, 3))
    return picture.clip(0, 255).astype(np.uint8), mask


def overlap(pred, target):
    return (pred & target).sum() / (pred | target).sum()


@pytest.mark.parametrize("name", ["kmeans", "otsu", "grabcut"])
@pytest.mark.parametrize("swap", [False, True])
def test_color_methods_find_the_disc_whichever_is_brighter(name, swap):
    colors = ((220, 200, 180), (20, 30, 40))
    picture, mask = disc(*(colors[::-1] if swap else colors))
    assert overlap(BASELINES[name](picture), mask) > 0.95


def test_kmeans_tells_colors_of_one_brightness_apart():
    picture, mask = disc((200, 60, 60), (60, 200, 60))
    assert overlap(BASELINES["kmeans"](picture), mask) > 0.95


def test_full_covers_everything():
    assert BASELINES["full"](np.zeros([5, 7, 3], np.uint8)).all()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_box_covers_its_share_in_the_middle(share):
    mask = center_box(share)(np.zeros([64, 32, 3], np.uint8))
    assert mask.mean() == pytest.approx(share, abs=0.03)
    assert (mask == mask[::-1]).all() and (mask == mask[:, ::-1]).all()


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_box_refuses_other_shares(share):
    with pytest.raises(ValueError, match=r"`share` to be in \(0, 1\]"):
        center_box(share)


@pytest.mark.parametrize("name", list(BASELINES))
@pytest.mark.parametrize("shape", [(9, 14), (1, 1), (36, 36)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_constant_pictures_of_any_size_get_a_mask(name, shape, level):
    mask = BASELINES[name](np.full([*shape, 3], level, np.uint8))
    assert mask.shape == shape and mask.dtype == bool


@pytest.mark.parametrize("name", list(BASELINES))
def test_the_same_picture_gets_the_same_mask(name):
    picture = np.random.default_rng(1).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    first = BASELINES[name](picture.copy())
    BASELINES[name](255 - picture)
    assert (BASELINES[name](picture) == first).all()


def test_otsu_minimizes_the_variance_within():
    picture = np.random.default_rng(2).integers(0, 256, (16, 16, 1)).astype(np.uint8).repeat(3, axis=2)
    gray = picture[..., 0].astype(float)

    def within(mask):
        return sum(part.size * part.var() for part in (gray[mask], gray[~mask]) if part.size)

    least = min(within(gray > level) for level in range(255))
    assert within(BASELINES["otsu"](picture)) == pytest.approx(least)


def test_missing_opencv_is_named_with_its_extra(monkeypatch):
    real_import = builtins.__import__

    def without_cv2(name, *args, **kwargs):
        if name == "cv2":
            raise ImportError("No module named 'cv2'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_cv2)
    with pytest.raises(MissingLibraryError, match=r"layered-plugin\[grabcut\]"):
        grabcut(np.zeros([8, 8, 3], np.uint8))
    for name in ("full", "box", "kmeans", "otsu"):
        assert BASELINES[name](np.zeros([8, 8, 3], np.uint8)).shape == (8, 8)


def test_names_are_those_of_the_command():
    assert list(BASELINES) == ["full", "box", "kmeans", "otsu", "grabcut"]


def test_full_and_box_do_not_look_at_the_picture():
    picture = disc(size=36)[0]
    assert BASELINES["box"](picture).mean() == BOX_SHARE
    for name in ("full", "box"):
        assert (BASELINES[name](picture) == BASELINES[name](255 - picture)).all()


@pytest.mark.parametrize("share, shape, expected", [
    (1, (5, 7), (5, 7)), (0.25, (20, 40), (10, 20)), (0.25, (9, 10), (5, 6)), (0.01, (4, 5), (2, 1)),
])
def test_sides_of_the_box_leave_whole_margins(share, shape, expected):
    mask = center_box(share)(np.zeros([*shape, 3], np.uint8))
    assert (mask.any(axis=1).sum(), mask.any(axis=0).sum(), mask.sum()) == (*expected, expected[0] * expected[1])


def test_kmeans_tells_equally_bright_pure_colors_apart():
    picture, mask = disc((255, 0, 0), (0, 0, 255), noise=0)
    assert (BASELINES["kmeans"](picture) == mask).all()


def test_kmeans_has_converged():
    picture, _ = disc(noise=120)
    mask = BASELINES["kmeans"](picture)
    near, far = (((picture - picture[part].mean(axis=0)) ** 2).sum(axis=2) for part in (mask, ~mask))
    assert ((near < far) == mask).all()


@pytest.mark.parametrize("noise", [20, 60, 150])
def test_otsu_matches_opencv(noise):
    picture, _ = disc((220, 210, 215), (40, 50, 45), noise=noise)
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    _, binary = cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    assert (BASELINES["otsu"](picture) == (binary == 255)).mean() > 0.99  # Gray is rounded in another way.


@pytest.mark.parametrize("name", ["kmeans", "otsu"])
def test_object_has_less_of_the_border_and_of_a_tie_is_the_brighter(name):
    picture = np.zeros([8, 8, 3], np.uint8)
    picture[:, :4] = 255
    bright = picture[..., 0] == 255
    assert (BASELINES[name](picture) == bright).all() and (BASELINES[name](255 - picture) == ~bright).all()
    picture[:, 4] = 255
    assert (BASELINES[name](picture) == (picture[..., 0] == 0)).all()


@pytest.mark.parametrize("name", ["kmeans", "otsu", "grabcut"])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_color_holds_no_object(name, level):
    assert not BASELINES[name](np.full([12, 12, 3], level, np.uint8)).any()


def test_grabcut_takes_what_is_outside_its_box_for_background():
    picture, _ = disc((220, 210, 215), (40, 50, 45))
    picture[10:20, :26] = (220, 30, 30)
    mask = grabcut(picture)
    assert mask.any() and not (mask & ~center_box(GRABCUT_SHARE)(picture)).any()


def test_grabcut_does_not_depend_on_opencvs_generator():
    picture, _ = disc(noise=120)
    first = grabcut(picture)
    cv2.setRNGSeed(7)
    assert (grabcut(picture) == first).all()


@pytest.mark.parametrize("name", list(BASELINES))
def test_mirrored_picture_has_the_mirrored_mask(name):
    picture, _ = disc((220, 210, 215), (40, 50, 45))
    picture[10:14, 18:24] = (220, 210, 215)  # Not the same on both sides.
    assert (BASELINES[name](picture[:, ::-1]) == BASELINES[name](picture)[:, ::-1]).all()


@pytest.mark.parametrize("name", list(BASELINES))
@settings(max_examples=30, deadline=None, derandomize=True)
@given(picture=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_any_picture_gets_a_mask_of_its_size_and_stays_as_it_was(name, picture):
    before = picture.copy()
    mask = BASELINES[name](picture)
    assert mask.dtype == bool and mask.shape == picture.shape[:2] and (picture == before).all()


@pytest.mark.parametrize("name", list(BASELINES))
@pytest.mark.parametrize("picture", [np.zeros([4, 4], np.uint8), np.zeros([4, 4, 3]), np.zeros([3, 4, 4], np.uint8),
                                     np.zeros([4, 4, 4], np.uint8), np.zeros([0, 4, 3], np.uint8)])
def test_what_is_no_picture_is_refused(name, picture):
    with pytest.raises(ValueError, match=r"`picture` to be uint8 \[H, W, 3\]"):
        BASELINES[name](picture)
