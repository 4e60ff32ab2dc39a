"""Augmentation of pairs: each transformation against one made by hand, limits, pictures and masks together."""

import math

import numpy as np
import pytest
import torch

from layered_plugin.segmentation import augment
from layered_plugin.segmentation.augment import detail_of, disturb, random_affine

STILL = dict(angle=0.0, scale=1.0, stretch=1.0, translation=0.0)
LEAST, MIDDLE, MOST = 0.0, 0.5, 1.0  # Random numbers for: the limit downwards, none, the limit upwards.


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(num=2, size=16):
    return torch.rand(num, 3, size, size) * 2 - 1


def affine_with(monkeypatch, img, *, turn=MIDDLE, enlarge=MIDDLE, stretch=MIDDLE, mirror=MOST, right=MIDDLE,
                down=MIDDLE, **limits):
    """random_affine of pictures with chosen random numbers; the mask is the first channel."""
    draws = iter([turn, enlarge, stretch, mirror, right, down])
    with monkeypatch.context() as patch:
        patch.setattr(augment.torch, "rand", lambda num, generator: torch.full([num], next(draws)))
        out, mask = random_affine(img, img[:, :1], seeded(), **dict(STILL, **limits))
    assert next(draws, None) is None
    assert out.shape == img.shape and torch.equal(out[:, :1], mask)
    return out


def test_no_transformation_is_identity(monkeypatch):
    img = noise()
    assert torch.allclose(affine_with(monkeypatch, img), img, atol=1e-5)


def test_mirror_is_left_to_right(monkeypatch):
    img = noise()
    assert torch.allclose(affine_with(monkeypatch, img, mirror=LEAST), img.flip(3), atol=1e-5)


@pytest.mark.parametrize("turn, quarters", [(MOST, 1), (LEAST, -1)])
def test_ninety_degrees_is_a_quarter_turn(monkeypatch, turn, quarters):
    img = noise()
    out = affine_with(monkeypatch, img, turn=turn, angle=90.0)
    assert torch.allclose(out, torch.rot90(img, quarters, dims=(2, 3)), atol=1e-5)


@pytest.mark.parametrize("turn", [MOST, LEAST])
def test_180_degrees_turns_upside_down(monkeypatch, turn):
    img = noise()
    assert torch.allclose(affine_with(monkeypatch, img, turn=turn, angle=180.0), img.flip(2, 3), atol=1e-5)


@pytest.mark.parametrize("right, down, dx, dy", [(MOST, MIDDLE, 4, 0), (MIDDLE, LEAST, 0, -4), (LEAST, MOST, -4, 4)])
def test_shift_is_a_fraction_of_the_side_and_mirrors_beyond_the_border(monkeypatch, right, down, dx, dy):
    img = noise(size=16)
    out = affine_with(monkeypatch, img, right=right, down=down, translation=0.25)
    padded = np.pad(img.numpy(), [(0, 0), (0, 0), (4, 4), (4, 4)], mode="symmetric")
    assert np.allclose(out.numpy(), padded[:, :, 4 + dy:20 + dy, 4 + dx:20 + dx], atol=1e-5)


def test_enlarging_twice_shows_the_middle_half(monkeypatch):
    img = noise(size=16)
    out = affine_with(monkeypatch, img, enlarge=MOST, scale=2.0)
    middle = img[:, :, 3:13, 3:13]  # One pixel more on either side, for the interpolation.
    expected = torch.nn.functional.interpolate(middle, scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]
    assert torch.allclose(out, expected, atol=1e-5)


def coordinates(num, size=32):
    """Pictures whose first two channels say where a pixel was, x and y in [-1, 1] over the picture."""
    centers = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).expand(num, -1, -1, -1)


def matrices(out):
    """Affine maps (2x2 matrices, offsets) from output to input, read off the middle of transformed coordinates."""
    half, step = out.shape[2] // 2, 2 / out.shape[2]
    at = out[:, :2, half - 1:half + 1, half - 1:half + 1]
    columns = [(at[:, :, 0, 1] - at[:, :, 0, 0]) / step, (at[:, :, 1, 0] - at[:, :, 0, 0]) / step]
    return torch.stack(columns, dim=2), at.mean(dim=[2, 3])


def test_limits_hold_and_are_used():
    num = 4000
    out, _ = random_affine(coordinates(num), torch.zeros(num, 1, 32, 32), seeded(), angle=180.0, scale=1.3,
                           stretch=1.2, translation=0.1)
    linear, offset = matrices(out)
    axes = linear.norm(dim=1)  # Lengths of the images of both axes of the output: [N, 2].
    size, ratio = axes.prod(dim=1).sqrt(), axes[:, 0] / axes[:, 1]
    for values, limit in ((size, 1.3), (ratio, 1.2)):
        assert values.max() == pytest.approx(limit, rel=0.01) and values.min() == pytest.approx(1 / limit, rel=0.01)
    assert offset.abs().max() == pytest.approx(0.2, rel=0.01), "a tenth of a side that is 2 long"
    assert offset.mean(dim=0).abs().max() < 0.01
    mirrored = linear.det() < 0
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.03)
    # Both axes stay at right angles, and every direction occurs.
    assert (linear[:, :, 0] * linear[:, :, 1]).sum(dim=1).abs().max() < 1e-3
    angle = torch.atan2(linear[:, 1, 1], linear[:, 0, 1])
    assert torch.histc(angle, 8, -math.pi, math.pi).min() > num / 8 * 0.8


def test_angle_stays_within_its_limit():
    out, _ = random_affine(coordinates(500), torch.zeros(500, 1, 32, 32), seeded(), **dict(STILL, angle=30.0))
    linear, offset = matrices(out)
    angle = torch.rad2deg(torch.atan2(-linear[:, 0, 1], linear[:, 1, 1]))
    assert 29 < angle.max() < 30.1 and -30.1 < angle.min() < -29
    assert offset.abs().max() < 1e-4


def test_pictures_and_masks_move_together_and_keep_their_ranges():
    img = noise(16)
    target = (img[:, :1] > 0).float()
    out, mask = random_affine(torch.cat([target] * 3, dim=1), target, seeded())
    assert torch.equal(out[:, :1], mask)
    assert mask.min() == 0 and mask.max() == 1 and ((mask > 0) & (mask < 1)).any()
    out, _ = random_affine(img, target, seeded())
    assert out.abs().max() <= 1


@pytest.mark.parametrize("augment", [lambda img, seed: random_affine(img, img[:, :1], seeded(seed))[0],
                                     lambda img, seed: disturb(img, seeded(seed)),
                                     lambda img, seed: disturb(img, seeded(seed), detail=2)])
def test_seeds_repeat_and_the_global_generator_is_left_alone(augment):
    img, before = noise(4), torch.get_rng_state()
    assert torch.equal(augment(img, 1), augment(img, 1))
    assert not torch.equal(augment(img, 1), augment(img, 2))
    assert torch.equal(before, torch.get_rng_state())
    same = augment(img[:1].expand(4, -1, -1, -1), 1)
    assert not torch.equal(same[0], same[1]), "pictures of a batch must differ in what happens to them"


@pytest.mark.parametrize("augment", [lambda img: random_affine(img, img[:, :1], seeded())[0],
                                     lambda img: disturb(img, seeded()),
                                     lambda img: disturb(img, seeded(), detail=2)])
def test_pictures_may_be_on_another_device_than_the_generator(augment):
    assert augment(torch.zeros(2, 3, 8, 8, device="meta")).device.type == "meta"


def test_disturbances_by_formula(monkeypatch):
    img = noise(2, size=5)
    ones, zeros = torch.ones(2, 3, 1, 1), torch.zeros(2, 3, 1, 1)
    draws = iter([ones, torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), zeros[:, :1]])
    with monkeypatch.context() as patch:
        patch.setattr(augment.torch, "rand", lambda *_shape, generator: next(draws))
        out = disturb(img, seeded())  # The gains up, the offset down, as soft as can be, no noise.
    padded = np.pad(img.numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge")
    blurred = sum(padded[:, :, i:i + 5, j:j + 5] for i in range(3) for j in range(3)) / 9
    expected = (img.numpy() + 0.7 * (blurred - img.numpy())) * 1.2 - 0.2
    assert np.allclose(out.numpy(), expected.clip(-1, 1), atol=1e-5)


def test_finer_pictures_are_blurred_wider_and_half_of_them_lose_their_detail(monkeypatch):
    img = noise(2, size=8)
    chosen = torch.tensor([0.4, 0.5]).view(2, 1, 1, 1)  # The first is.
    half = torch.full([2, 3, 1, 1], 0.5)
    draws = iter([chosen, half, half[:, :1], torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)])
    with monkeypatch.context() as patch:
        patch.setattr(augment.torch, "rand", lambda *_shape, generator: next(draws))
        out = disturb(img, seeded(), detail=2)  # As soft as can be, nothing else.
    means = img[:1].unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=[4, 5])
    coarse = torch.nn.functional.interpolate(means, size=(8, 8), mode="bilinear")
    sharp = torch.cat([coarse, img[1:]]).numpy()
    padded = np.pad(sharp, [(0, 0), (0, 0), (2, 2), (2, 2)], mode="edge")
    blurred = sum(padded[:, :, i:i + 8, j:j + 8] for i in range(5) for j in range(5)) / 25
    assert np.allclose(out.numpy(), sharp + 0.7 * (blurred - sharp), atol=1e-5)


@pytest.mark.parametrize("resolution, detail", [(8, 1), (32, 1), (64, 2), (128, 4)])
def test_detail_is_counted_from_32(resolution, detail):
    assert detail_of(resolution) == detail
