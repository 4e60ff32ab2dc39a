"""Frechet distance: closed forms; features learnt on the spot."""

import pytest
import torch

from layered_plugin.model.picture_distance import PictureFeatures, frechet_distance


def discs(num, seed, bright=200):
    """Coloured discs on dark ground."""
    rng = torch.Generator().manual_seed(seed)
    rows, cols = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    middle, radius = 4 + 8 * torch.rand(num, 2, generator=rng), 2 + 4 * torch.rand(num, 1, 1, generator=rng)
    inside = (rows - middle[:, 0, None, None]).square() + (cols - middle[:, 1, None, None]).square() < radius.square()
    color = bright * torch.rand(num, 3, 1, 1, generator=rng)
    return (inside[:, None] * color + 20).to(torch.uint8)


def test_distance_of_normal_distributions_is_the_closed_form():
    torch.manual_seed(0)
    base = torch.randn(20000, 3, dtype=torch.double)
    base = (base - base.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(base.T))).T  # Whitened.
    # Independent axes: sum of (m1 - m2)^2 + (s1 - s2)^2.
    other = base * torch.tensor([2.0, 1.0, 0.5]) + torch.tensor([3.0, 0.0, 0.0])
    assert frechet_distance(base, other) == pytest.approx(9 + 1 + 0.25)
    assert frechet_distance(base, base) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(other, base) == pytest.approx(10.25)


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))


def test_features_tell_other_pictures_from_more_of_the_same():
    features = PictureFeatures(discs(200, 0), seed=0, steps=30)
    real = features(discs(200, 1))
    floor = frechet_distance(features(discs(200, 2)), real)
    assert real.shape == (200, 64)
    assert frechet_distance(features(discs(200, 3, bright=60)), real) > 3 * floor
    one_picture = features(discs(1, 4).expand(200, -1, -1, -1))
    assert frechet_distance(one_picture, real) > 3 * floor


def test_features_are_the_seeds_and_leave_torchs_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    some, same, other = (PictureFeatures(discs(20, 0), seed=seed, steps=3)(discs(5, 1)) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(some, same) and not torch.equal(some, other)


def test_bytes_and_floats_are_the_same_picture():
    features = PictureFeatures(discs(20, 0), steps=2)
    img = discs(5, 1)
    assert torch.allclose(features(img), features(img.float() / 127.5 - 1), atol=1e-6)
