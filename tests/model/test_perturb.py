"""Random shift (Eq. 2) and contrast jitter."""

import pytest
import torch

from layered_plugin.model.layers import Layers, composite
from layered_plugin.model.perturb import jitter_contrast, random_shift, shift_foreground, shift_images


def slow_shift(img: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """out[p] = img[p + shift], zero outside, one pixel at a time."""
    out = torch.zeros_like(img)
    height, width = img.shape[2:]
    for n, (dx, dy) in enumerate(shift.tolist()):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    out[n, :, y, x] = img[n, :, y + dy, x + dx]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shift_equals_equation_2_pixel_by_pixel(dtype):
    img = torch.randn(12, 2, 6, 5).to(dtype)
    shift = torch.randint(-7, 8, [12, 2])  # Some leave the picture altogether.
    out = shift_images(img, shift)
    assert out.dtype == dtype
    assert torch.equal(out, slow_shift(img, shift))


def test_zero_shift_is_identity():
    img = torch.randn(3, 4, 8, 8)
    assert torch.equal(shift_images(img, torch.zeros(3, 2, dtype=torch.int64)), img)


def test_foreground_and_mask_move_together_and_background_stays():
    layers = Layers(torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.rand(4, 1, 8, 8))
    shift = random_shift(4, 3)
    moved = shift_foreground(layers, shift)
    assert torch.equal(moved.bg, layers.bg)
    assert torch.equal(moved.fg, slow_shift(layers.fg, shift))
    assert torch.equal(moved.mask, slow_shift(layers.mask, shift))


def test_shifted_composite_shows_background_where_nothing_moved_in():
    layers = Layers(torch.full([1, 3, 4, 4], 0.5), torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4))
    out = composite(shift_foreground(layers, torch.tensor([[1, 0]])))
    assert torch.equal(out[0, 0], torch.tensor([[1, 1, 1, 0.5]] * 4))


def test_gradient_of_shift_is_the_opposite_shift():
    img = torch.randn(5, 1, 6, 6, requires_grad=True)
    shift = random_shift(5, 2)
    weight = torch.randn(5, 1, 6, 6)
    (shift_images(img, shift) * weight).sum().backward()
    assert torch.equal(img.grad, slow_shift(weight, -shift))


def test_random_shift_is_uniform_and_centred():
    shift = random_shift(20000, 2, generator=torch.Generator().manual_seed(1))
    # 20000 draws of 5 values: each count has mean 4000 and deviation sqrt(20000 * 0.2 * 0.8) = 57.
    for axis in range(2):
        counts = torch.bincount(shift[:, axis] + 2, minlength=5)
        assert len(counts) == 5
        assert (counts - 4000).abs().max() < 5 * 57
    correlation = torch.corrcoef(shift.T.float())[0, 1]
    assert correlation.abs() < 5 / 20000**0.5


def test_random_shift_repeats_with_its_generator():
    draws = [random_shift(8, 4, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("shift", [torch.zeros(3, 2, dtype=torch.int64), torch.zeros(2, 2)])
def test_wrong_shift_is_refused(shift):
    with pytest.raises(ValueError, match="`shift`"):
        shift_images(torch.zeros(2, 1, 4, 4), shift)


def test_jitter_scales_contrast_about_the_mean_within_its_range():
    img = torch.randn(64, 3, 8, 8) * 0.1
    wide = torch.cat([img, torch.full([64, 3, 1, 8], 3.0), torch.full([64, 3, 1, 8], -3.0)], dim=2)  # Room to scale.
    out = jitter_contrast(wide, 0.3)
    inner, mean = wide[:, :, :8], wide.mean(dim=[1, 2, 3], keepdim=True)
    factor = ((out[:, :, :8] - mean) / (inner - mean)).flatten(1).median(dim=1).values
    assert factor.min() >= 0.7 - 1e-4 and factor.max() <= 1.3 + 1e-4
    assert factor.std() > 0.1
    assert torch.allclose(out[:, :, :8], mean + factor.view(-1, 1, 1, 1) * (inner - mean), atol=1e-5)


def test_jitter_never_leaves_the_images_own_range():
    img = torch.randn(32, 3, 8, 8)
    out = jitter_contrast(img, 1.0)
    assert (out.amax(dim=[1, 2, 3]) <= img.amax(dim=[1, 2, 3])).all()
    assert (out.amin(dim=[1, 2, 3]) >= img.amin(dim=[1, 2, 3])).all()


def test_jitter_of_zero_is_identity_and_draws_nothing():
    img = torch.randn(2, 3, 4, 4)
    before = torch.get_rng_state()
    assert jitter_contrast(img, 0) is img
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_wrong_jitter_is_refused(strength):
    with pytest.raises(ValueError, match="`strength`"):
        jitter_contrast(torch.zeros(1, 3, 4, 4), strength)
