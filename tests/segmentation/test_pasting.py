"""Objects on other pictures' grounds: where they come to lie, what is left of the ground, what becomes of a hole."""

import pytest
import torch

from layered_plugin.segmentation import pasting
from layered_plugin.segmentation.pasting import fill_in, paste_objects


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def discs(radii, size=32):
    """Discs in the middle, white on grounds of one gray each."""
    y, x = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    mask = torch.stack([(y**2 + x**2 <= radius**2).float() for radius in radii])[:, None]
    gray = torch.linspace(-0.9, 0.1, len(radii)).reshape(-1, 1, 1, 1)
    return (mask + (1 - mask) * gray).expand(-1, 3, -1, -1).contiguous(), mask


def test_each_object_lies_on_the_ground_of_the_picture_before():
    img, mask = discs([5] * 6)
    pasted, new = paste_objects(img, mask, seeded())
    assert pasted.shape == img.shape and new.shape == mask.shape and new.min() >= 0 and new.max() <= 1
    for idx in range(6):
        ground = pasted[idx, 0][new[idx, 0] == 0]
        assert (ground - img[idx - 1, 0, 0, 0]).abs().max() < 1e-5, "its own object must be filled in"
        assert (pasted[idx, 0][new[idx, 0] > 0.999] - 1).abs().max() < 1e-5


@pytest.mark.parametrize("size", [16, 32, 64])
def test_sizes_and_places_stay_within_bounds(size):
    img, mask = discs([size / 6] * 200, size)
    new = paste_objects(img, mask, seeded())[1][:, 0]
    ratio = (new.sum(dim=(1, 2)) / mask.sum(dim=(1, 2, 3))).sqrt()
    at = (torch.arange(size) + 0.5) / size - 0.5
    middle = torch.stack([(new.sum(1) * at).sum(1), (new.sum(2) * at).sum(1)]) / new.sum(dim=(1, 2))
    assert 0.3 < ratio.min() < 0.5 and 1.1 < ratio.max() < 1.3
    assert 0.2 < middle.abs().max() < 0.26 and middle.mean(dim=1).abs().max() < 0.05


@pytest.mark.parametrize("size, place", [(0.5, 0.0), (1.0, 0.0)])
def test_the_mask_is_the_objects_at_another_scale(monkeypatch, size, place):
    monkeypatch.setattr(pasting, "SIZE", (size, size))
    monkeypatch.setattr(pasting, "PLACE", place)
    monkeypatch.setattr(pasting, "STRETCH", 1)
    img, mask = discs([10, 6])
    new = paste_objects(img, mask, seeded())[1]
    assert (new - discs([10 * size, 6 * size])[1]).abs().mean() < (1e-6 if size == 1 else 0.02)


def test_objects_are_stretched_along_all_axes_and_keep_their_area(monkeypatch):
    monkeypatch.setattr(pasting, "SIZE", (1, 1))
    monkeypatch.setattr(pasting, "PLACE", 0)
    img, mask = discs([6] * 200)
    new = paste_objects(img, mask, seeded())[1][:, 0]
    area, at = new.sum(dim=(1, 2)), torch.arange(32) - 15.5
    assert (area / mask[0].sum() - 1).abs().max() < 0.03
    xx, yy = ((new.sum(dim) * at**2).sum(dim=1) / area for dim in (1, 2))
    xy = (new * at * at[:, None]).sum(dim=(1, 2)) / area
    root = ((xx - yy).square() + 4 * xy.square()).sqrt()
    ratio = ((xx + yy + root) / (xx + yy - root)).sqrt()  # Of the ellipses' axes: a factor, and as much a squeeze.
    assert 0.99 < ratio.min() < 1.2 and 3.5 < ratio.max() < 4.05
    angle = torch.atan2(2 * xy, xx - yy)[ratio > 1.5]  # Twice that of the long axis.
    assert angle.cos().mean().abs() < 0.25 and angle.sin().mean().abs() < 0.25


def test_the_same_draws_give_the_same_pictures():
    img, mask = discs([4, 7, 9])
    first, again, other = (paste_objects(img, mask, seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_hole_takes_the_colors_about_it():
    img = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32).clone()
    hole = torch.zeros(1, 1, 32, 32)
    hole[..., 10:20, 8:24] = 1
    filled = fill_in(torch.where(hole > 0, torch.tensor(9.0), img), hole)
    assert torch.equal(filled[(hole == 0).expand_as(img)], img[(hole == 0).expand_as(img)])
    assert (filled - img).abs().max() < 0.3, "a slope must go on across the hole"


@pytest.mark.parametrize("side", [4, 6, 32])
def test_a_hole_everywhere_is_gray(side):
    assert torch.equal(fill_in(torch.rand(2, 3, side, side), torch.ones(2, 1, side, side)),
                       torch.zeros(2, 3, side, side))
