"""conv2d_gradfix, grid_sample_gradfix and fma: definitions, gradients and flags."""

import numpy as np
import pytest
import torch
from torch_utils.ops import conv2d_gradfix, grid_sample_gradfix
from torch_utils.ops.fma import fma


def _correlate(x, w, b, stride, padding):
    """Correlation of one image, tap by tap."""
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding)])
    out_channels, _, kh, kw = w.shape
    oh, ow = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.empty([out_channels, oh, ow])
    for o, i, j in np.ndindex(out_channels, oh, ow):
        y[o, i, j] = (w[o] * x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]).sum() + b[o]
    return y


def _double(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_conv2d_matches_loop(stride, padding):
    x, w, b = _double(1, 2, 6, 5), _double(3, 2, 3, 2), _double(3)
    y = conv2d_gradfix.conv2d(x, w, b, stride=stride, padding=padding)
    expected = _correlate(x[0].detach().numpy(), w.detach().numpy(), b.detach().numpy(), stride, padding)
    np.testing.assert_allclose(y[0].detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("stride", "padding", "output_padding"), [(1, 0, 0), (2, 1, 1), (3, 1, 0)])
def test_conv_transpose2d_is_the_adjoint_of_conv2d(stride, padding, output_padding):
    small, w = _double(1, 3, 4, 4), _double(3, 2, 3, 3)
    large = conv2d_gradfix.conv_transpose2d(small, w, None, stride, padding, output_padding)
    other = torch.randn_like(large)
    back = conv2d_gradfix.conv2d(other, w, stride=stride, padding=padding)
    torch.testing.assert_close((large * other).sum(), (small * back).sum())


@pytest.mark.parametrize("func", [conv2d_gradfix.conv2d, conv2d_gradfix.conv_transpose2d])
@pytest.mark.parametrize("flag", [False, True])
def test_convolutions_have_two_derivatives(func, flag, monkeypatch):
    monkeypatch.setattr(conv2d_gradfix, "enabled", flag)
    args = (_double(1, 2, 4, 4), _double(2, 1, 3, 3), _double(2))

    def run(x, w, b):
        return func(x, w, b, stride=2, padding=1, groups=2)

    assert torch.autograd.gradcheck(run, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, args, fast_mode=True)


def test_argument_order_of_the_convolutions():
    x, w = _double(1, 2, 5, 5), _double(2, 2, 2, 2)
    kwargs = {"dilation": 2, "groups": 1}
    assert torch.equal(conv2d_gradfix.conv2d(x, w, None, 1, 0, 2, 1), conv2d_gradfix.conv2d(x, w, **kwargs))
    positional = conv2d_gradfix.conv_transpose2d(x, w, None, 1, 0, 0, 1, 2)
    assert torch.equal(positional, conv2d_gradfix.conv_transpose2d(x, w, **kwargs))


def test_no_weight_gradients_sets_and_restores_the_flag():
    assert conv2d_gradfix.enabled is False and conv2d_gradfix.weight_gradients_disabled is False
    with conv2d_gradfix.no_weight_gradients():
        assert conv2d_gradfix.weight_gradients_disabled
        with conv2d_gradfix.no_weight_gradients():
            pass
        assert conv2d_gradfix.weight_gradients_disabled
    assert not conv2d_gradfix.weight_gradients_disabled


def test_no_weight_gradients_restores_the_flag_after_an_exception():
    with pytest.raises(RuntimeError, match="stop"), conv2d_gradfix.no_weight_gradients():
        raise RuntimeError("stop")
    assert not conv2d_gradfix.weight_gradients_disabled


def test_gradient_penalty_reaches_weights_through_no_weight_gradients():
    x, w = _double(1, 2, 4, 4), _double(2, 2, 3, 3)

    def penalty():
        (grad,) = torch.autograd.grad(conv2d_gradfix.conv2d(x, w).square().sum(), x, create_graph=True)
        return grad.square().sum()

    (expected,) = torch.autograd.grad(penalty(), w)
    with conv2d_gradfix.no_weight_gradients():
        loss = penalty()
    (got,) = torch.autograd.grad(loss, w)
    assert torch.equal(got, expected) and got.abs().sum() > 0


def _bilinear(image, x, y):
    """Value at a position in [-1, 1], zero outside of the image."""
    height, width = image.shape
    px, py = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
    total = 0.0
    for i in (int(np.floor(py)), int(np.floor(py)) + 1):
        for j in (int(np.floor(px)), int(np.floor(px)) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += image[i, j] * (1 - abs(py - i)) * (1 - abs(px - j))
    return total


def test_grid_sample_matches_loop():
    image, grid = torch.randn(1, 1, 4, 5, dtype=torch.float64), torch.rand(1, 6, 7, 2, dtype=torch.float64) * 3 - 1.5
    y = grid_sample_gradfix.grid_sample(image, grid)
    for i, j in np.ndindex(6, 7):
        gx, gy = grid[0, i, j].tolist()
        assert y[0, 0, i, j].item() == pytest.approx(_bilinear(image[0, 0].numpy(), gx, gy), abs=1e-12)


@pytest.mark.parametrize("flag", [False, True])
def test_grid_sample_has_two_derivatives_by_its_input(flag, monkeypatch):
    assert grid_sample_gradfix.enabled is False
    monkeypatch.setattr(grid_sample_gradfix, "enabled", flag)
    grid = torch.rand(1, 3, 3, 2, dtype=torch.float64) * 2 - 1

    def func(x):
        return grid_sample_gradfix.grid_sample(x, grid).square()

    image = _double(1, 2, 4, 4)
    assert torch.autograd.gradcheck(func, (image,)) and torch.autograd.gradgradcheck(func, (image,))


@pytest.fixture
def in_order():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grid_sample_in_a_fixed_order_has_the_same_derivatives(dtype, in_order):
    image, grid = torch.randn(2, 3, 4, 5, dtype=dtype), torch.rand(2, 6, 7, 2, dtype=dtype) * 3 - 1.5
    out_grad = torch.randn(2, 3, 6, 7, dtype=dtype)
    (expected,) = torch.ops.aten.grid_sampler_2d_backward(out_grad, image, grid, 0, 0, False, (True, False))[:1]
    image.requires_grad_()
    (got,) = torch.autograd.grad(grid_sample_gradfix.grid_sample(image, grid), image, out_grad)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert got.is_contiguous()


def test_grid_sample_in_a_fixed_order_has_two_derivatives(in_order):
    grid = torch.rand(1, 3, 3, 2, dtype=torch.float64) * 2 - 1
    image = _double(1, 2, 4, 4)
    func = lambda x: grid_sample_gradfix.grid_sample(x, grid).square()  # noqa: E731
    assert torch.autograd.gradcheck(func, (image,)) and torch.autograd.gradgradcheck(func, (image,))


@pytest.mark.parametrize("shapes", [([2, 3], [2, 3], [2, 3]), ([2, 3, 2], [3, 1], [1]), ([1], [2, 2], [2, 1])])
def test_fma_broadcasts_with_two_derivatives(shapes):
    a, b, c = (_double(*shape) for shape in shapes)
    torch.testing.assert_close(fma(a, b, c), a * b + c)
    assert torch.autograd.gradcheck(fma, (a, b, c)) and torch.autograd.gradgradcheck(fma, (a, b, c))
