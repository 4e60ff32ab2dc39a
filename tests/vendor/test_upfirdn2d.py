"""upfirdn2d: filters, slow loops for any geometry, gradients, layouts and refusals."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch_utils.ops import upfirdn2d as ops

FIR = [1, 3, 3, 1]


def _loop(x, f, up, down, padding, flip_filter, gain):
    """Zero insertion, padding, cropping, filtering and decimation, step by step."""
    (ux, uy), (dx, dy), (px0, px1, py0, py1) = up, down, padding
    f = f.double()
    kernel = torch.outer(f, f) if f.ndim == 1 else f
    kernel = kernel if flip_filter else kernel.flip([0, 1])
    n, c, h, w = x.shape
    left, right, top, bottom = (max(p, 0) for p in padding)
    z = torch.zeros(n, c, h * uy + top + bottom, w * ux + left + right, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            z[:, :, top + i * uy, left + j * ux] = x[:, :, i, j]
    z = z[:, :, max(-py0, 0) : z.shape[2] - max(-py1, 0), max(-px0, 0) : z.shape[3] - max(-px1, 0)]
    fh, fw = kernel.shape
    rows, cols = range(0, z.shape[2] - fh + 1, dy), range(0, z.shape[3] - fw + 1, dx)
    y = torch.zeros(n, c, len(rows), len(cols), dtype=torch.float64)
    for i, top in enumerate(rows):
        for j, left in enumerate(cols):
            y[:, :, i, j] = gain * (kernel * z[:, :, top : top + fh, left : left + fw]).sum([2, 3])
    return y


_factors = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def _cases(draw):
    taps = draw(st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 5), st.integers(1, 5))))
    shape = (2, draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    up, down = draw(_factors), draw(_factors)
    padding = tuple(draw(st.integers(-3, 4)) for _ in range(4))
    flip, gain = draw(st.booleans()), draw(st.sampled_from([1.0, 4.0, 0.5]))
    return shape, taps, up, down, padding, flip, gain, draw(st.booleans()), draw(st.integers(0, 99))


def _build(case):
    shape, taps, up, down, padding, flip, gain, nhwc, seed = case
    rng = torch.Generator().manual_seed(seed)
    f = torch.randn(taps, generator=rng)
    sizes = zip((shape[3], shape[2]), (f.shape[-1], f.shape[0]), up, (padding[:2], padding[2:]), strict=True)
    assume(all(size * u + sum(pads) >= count for size, count, u, pads in sizes))
    x = torch.randn(shape, dtype=torch.float64, generator=rng)
    x = x.contiguous(memory_format=torch.channels_last) if nhwc else x
    return x, f, {"up": up, "down": down, "padding": padding, "flip_filter": flip, "gain": gain}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much], derandomize=True)
@given(_cases())
def test_matches_slow_loop_for_any_geometry(case):
    x, f, kwargs = _build(case)
    y = ops.upfirdn2d(x, f, **kwargs)
    torch.testing.assert_close(y, _loop(x, f, **kwargs), rtol=1e-5, atol=1e-5)
    assert y.is_contiguous(memory_format=torch.channels_last if case[-2] else torch.contiguous_format)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much], derandomize=True)
@given(_cases())
def test_gradients_of_any_order(case):
    x, f, kwargs = _build(case)

    def func(x):
        return ops.upfirdn2d(x, f, **kwargs).square()

    assert torch.autograd.gradcheck(func, (x.requires_grad_(),), fast_mode=True)
    assert torch.autograd.gradgradcheck(func, (x,), fast_mode=True)


@pytest.mark.parametrize("nhwc", [False, True])
def test_third_derivative(nhwc):
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    x = (x.contiguous(memory_format=torch.channels_last) if nhwc else x).requires_grad_()

    def slope(x):
        y = ops.upsample2d(x, ops.setup_filter(FIR))
        return torch.autograd.grad((y**4).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(slope, (x,), fast_mode=True)


def test_setup_filter_of_the_default_taps():
    f = ops.setup_filter(FIR)
    expected = np.outer(FIR, FIR) / 64
    assert f.dtype == torch.float32 and torch.equal(f, torch.as_tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("f", [None, 3, 0.5, [2]])
def test_setup_filter_of_a_number_is_one_tap_of_one(f):
    assert torch.equal(ops.setup_filter(f), torch.ones(1, 1))


@pytest.mark.parametrize(("taps", "separable", "rank"), [(7, None, 2), (8, None, 1), (4, True, 1), (9, False, 2)])
def test_setup_filter_separates_from_eight_taps(taps, separable, rank):
    assert ops.setup_filter(list(range(1, taps + 1)), separable=separable).ndim == rank


@pytest.mark.parametrize("separable", [True, False])
def test_setup_filter_normalizes_flips_and_scales(separable):
    f = ops.setup_filter([1, 2, 5], flip_filter=True, gain=9, separable=separable)
    row = torch.tensor([5.0, 2.0, 1.0]) / 8
    torch.testing.assert_close(f, 3 * row if separable else 9 * torch.outer(row, row))
    raw = ops.setup_filter([1, 2, 5], normalize=False, separable=separable)
    assert raw.sum() == (8 if separable else 64)


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
@pytest.mark.parametrize("shape", [(3, 3), (8,)])
def test_setup_filter_leaves_the_callers_array(kind, shape):
    f = kind(np.full(shape, 2, dtype=np.float32))
    result = ops.setup_filter(f, normalize=False)
    result.zero_()
    ops.setup_filter(f)
    assert float(f.sum()) == 2 * np.prod(shape)


@pytest.mark.parametrize("taps", [[1], [1, 1], [1, 2, 1], FIR, [1, 2, 3, 4, 5], list(range(1, 9))])
@pytest.mark.parametrize("factor", [2, 3])
def test_wrappers_keep_sizes_and_brightness(taps, factor):
    f = ops.setup_filter(taps)
    x = torch.ones(1, 2, 24, 30)
    large, small, same = ops.upsample2d(x, f, up=factor), ops.downsample2d(x, f, down=factor), ops.filter2d(x, f)
    if len(taps) >= factor:
        assert large.shape == (1, 2, 24 * factor, 30 * factor)
    assert small.shape == (1, 2, 24 // factor, 30 // factor) and same.shape == x.shape
    torch.testing.assert_close(same[:, :, 8:-8, 8:-8], x[:, :, 8:-8, 8:-8])
    torch.testing.assert_close(small[:, :, 3:-3, 3:-3], torch.ones_like(small[:, :, 3:-3, 3:-3]))
    if len(taps) % factor == 0 and len(set(taps)) == 1:
        middle = large[:, :, 8:-8, 8:-8]
        torch.testing.assert_close(middle, torch.ones_like(middle))


@pytest.mark.parametrize(
    ("func", "padding", "factor", "gain"),
    [(ops.upsample2d, (2, 1, 2, 1), {"up": 2}, 4), (ops.downsample2d, (1, 1, 1, 1), {"down": 2}, 1),
     (ops.filter2d, (2, 1, 2, 1), {}, 1)],
)  # fmt: skip
@pytest.mark.parametrize("user", [0, 2, (-1, 2), (1, -1, 3, 0)])
def test_wrappers_pad_four_taps_as_documented(func, padding, factor, gain, user):
    x, f = torch.randn(2, 3, 9, 8), ops.setup_filter([1, 2, 3, 4])
    extra = ops.parse_padding(user)
    total = [a + b for a, b in zip(padding, extra, strict=True)]
    expected = ops.upfirdn2d(x, f, padding=total, gain=gain * 1.5, flip_filter=True, **factor)
    assert torch.equal(func(x, f, padding=user, gain=1.5, flip_filter=True), expected)


def test_padding_order_is_x_before_y():
    y = ops.upfirdn2d(torch.ones(1, 1, 2, 2), None, padding=[1, 2, 3, 4])
    assert y.shape == (1, 1, 9, 5) and torch.equal(y[0, 0, 3:5, 1:3], torch.ones(2, 2)) and y.sum() == 4


def test_unequal_factors_are_x_then_y():
    assert ops.upfirdn2d(torch.ones(1, 1, 4, 6), None, up=[2, 1], down=[1, 2]).shape == (1, 1, 2, 12)


def test_flip_filter_selects_correlation():
    x, f = torch.zeros(1, 1, 5, 5), ops.setup_filter([[1, 2], [3, 4]], normalize=False)
    x[0, 0, 2, 2] = 1
    assert torch.equal(ops.upfirdn2d(x, f)[0, 0, 1:3, 1:3], f.flip([0, 1]).flip([0, 1]))
    assert torch.equal(ops.upfirdn2d(x, f, flip_filter=True)[0, 0, 1:3, 1:3], f.flip([0, 1]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kwargs", [{"up": 2}, {"down": 2}, {"padding": (-1, 2, 0, 1)}, {"up": 2, "down": 3}])
def test_low_precision_keeps_dtype_and_layout(kwargs, dtype, layout):
    x = torch.randn(2, 16, 8, 8).to(dtype).contiguous(memory_format=layout).requires_grad_()
    f = ops.setup_filter(FIR)
    y = ops.upfirdn2d(x, f, **{"padding": 2, **kwargs})
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(
        y.float(), ops.upfirdn2d(x.float(), f, **{"padding": 2, **kwargs}), rtol=2e-2, atol=2e-2
    )
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert grad.dtype == dtype and grad.is_contiguous(memory_format=layout)


def test_filter_is_rounded_after_the_gain():
    f = torch.tensor([[1 / 3]])
    y = ops.upfirdn2d(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), f, gain=3)
    assert y.item() == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kwargs", [{"up": 2}, {"down": 2}, {"up": 2, "down": 2}, {"up": 2, "padding": (0, 2, -1, 3)}])
def test_result_can_be_changed_in_place(kwargs, layout):
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=layout).requires_grad_()
    f = ops.setup_filter(FIR)
    (expected,) = torch.autograd.grad(ops.upfirdn2d(x, f, **kwargs).sum(), x)
    (got,) = torch.autograd.grad(ops.upfirdn2d(x, f, **kwargs).add_(1).sum(), x)
    assert torch.equal(got, expected)


def test_input_that_is_neither_layout():
    base, f = torch.randn(2, 3, 8, 16), ops.setup_filter(FIR)
    assert torch.equal(ops.upsample2d(base[..., ::2], f), ops.upsample2d(base[..., ::2].contiguous(), f))


def test_both_implementations_agree():
    x, f = torch.randn(1, 2, 5, 5), ops.setup_filter(FIR)
    torch.testing.assert_close(ops.upsample2d(x, f, impl="ref"), ops.upsample2d(x, f, impl="cuda"))


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"impl": "fast"}, "`impl`"),
        ({"up": 0}, "`up`"),
        ({"down": [1, 2, 3]}, "`down`"),
        ({"up": 1.5}, "`up`"),
        ({"padding": [1, 2, 3]}, "`padding`"),
        ({"padding": 0.5}, "`padding`"),
        ({"padding": -2}, "along x"),
        ({"f": torch.ones(2, 2, 2)}, "`f`"),
        ({"f": torch.ones(2, 2, requires_grad=True)}, "`f`"),
        ({"x": torch.ones(3, 4)}, "`x`"),
    ],
)
def test_refuses_wrong_arguments(kwargs, text):
    with pytest.raises(ValueError, match=text):
        ops.upfirdn2d(**{"x": torch.ones(1, 1, 4, 4), "f": None, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "text"), [({"f": []}, "`f`"), ({"f": np.ones([2, 2, 2])}, "`f`"),
                         ({"f": np.ones([2, 2]), "separable": True}, "`separable`")],
)  # fmt: skip
def test_setup_filter_refuses_wrong_arguments(kwargs, text):
    with pytest.raises(ValueError, match=text):
        ops.setup_filter(**kwargs)
