"""Compiled kernels against the reference operations: random arguments, layouts, number formats, derivatives."""

import copy
import pickle
import shutil

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch_utils import custom_ops
from torch_utils.ops import bias_act, compiled, upfirdn2d
from training import networks

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("ninja")), reason="needs g++ and ninja to build the kernels"
)
CL = torch.channels_last


@needs_compiler
def test_kernels_are_built_here():
    """The other tests of this file would pass without kernels too."""
    assert compiled.supports(torch.zeros(1)) and not compiled.supports(torch.zeros(1, dtype=torch.int32))


@st.composite
def _bias_act_cases(draw):
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=5)))
    if draw(st.booleans()):
        side = st.integers(1, 20)
        shape = (draw(st.integers(1, 3)), draw(st.sampled_from([3, 32, 150])), draw(side), draw(side))
    kwargs = dict(
        act=draw(st.sampled_from(list(bias_act.activation_funcs))),
        alpha=draw(st.sampled_from([None, 0.0, 0.3, -0.5])),
        gain=draw(st.sampled_from([None, 1.0, 0.5, 2.0, -1.0, 0.0])),
        clamp=draw(st.sampled_from([None, 0.7, 256.0])),
    )
    dim = draw(st.integers(0, len(shape) - 1))
    return shape, dim, kwargs, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 99))


def _bias_act_tensors(case, dtype):
    shape, dim, kwargs, with_bias, nhwc, seed = case
    rng = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=rng) * 2).to(dtype)
    x = x.contiguous(memory_format=CL) if nhwc and len(shape) == 4 else x
    b = torch.randn(shape[dim], generator=rng).to(dtype) if with_bias else None
    grad = torch.randn(shape, generator=rng).to(dtype)
    return x, b, grad, dict(dim=dim, **kwargs)


def _results(func, inputs, grad):
    """Output and gradients by all inputs that are there."""
    inputs = [t.detach().requires_grad_() for t in inputs if t is not None]
    y = func(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_bias_act_cases())
def test_bias_act_equals_reference(case):
    x, b, grad, kwargs = _bias_act_tensors(case, torch.float32)

    def run(impl):
        return _results(lambda x, b=None: bias_act.bias_act(x, b, impl=impl, **kwargs), (x, b), grad)

    for got, expected in zip(run("cuda"), run("ref"), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)
        assert got.stride() == expected.stride() or got.numel() == 1 or 1 in got.shape


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_bias_act_cases())
def test_bias_act_in_bfloat16_is_float32_rounded_once(case):
    """Relative error of one rounding, 2^-8, in the output; the gradient's slopes can change sides at the limits."""
    x, b, grad, kwargs = _bias_act_tensors(case, torch.bfloat16)
    y = bias_act.bias_act(x, b, **kwargs)
    wide = bias_act.bias_act(x.float(), None if b is None else b.float(), impl="ref", **kwargs)
    plain = kwargs["act"] in ("relu", "lrelu") and not (kwargs["gain"] != 0 and (kwargs["gain"] or 1) > 0)
    if not plain and (kwargs["alpha"] is None or kwargs["alpha"] >= 0):
        torch.testing.assert_close(y.float(), wide, rtol=2**-8, atol=1e-6)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("act", list(bias_act.activation_funcs))
def test_bias_act_gradients_of_two_orders(act, nhwc):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=CL if nhwc else torch.contiguous_format)
    b = torch.randn(3, dtype=torch.float64)
    inputs = (x.requires_grad_(), b.requires_grad_())

    def func(x, b):
        return bias_act.bias_act(x, b, act=act, clamp=1.3)

    assert torch.autograd.gradcheck(func, inputs)
    assert torch.autograd.gradgradcheck(func, inputs)
    assert torch.autograd.gradcheck(func, inputs, check_batched_grad=False, fast_mode=True)


@pytest.mark.parametrize("act", ["linear", "lrelu", "tanh"])
def test_bias_act_third_derivative(act):
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def slope(x, b):
        y = bias_act.bias_act(x, b, act=act, clamp=2)
        return torch.autograd.grad((y**3).sum(), [x, b], create_graph=True)

    assert torch.autograd.gradgradcheck(slope, (x, b), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_many_elements_and_threads_add_up(dtype):
    """Several pieces of work for both layouts; sums are exact for small whole numbers."""
    x = torch.randint(-3, 4, (3, 20, 70, 70)).to(dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for layout in (torch.contiguous_format, CL):
            got = x.contiguous(memory_format=layout)
            b = torch.zeros(20, dtype=dtype)
            y, grad_x, grad_b = _results(lambda x, b: bias_act.bias_act(x, b, act="relu", gain=1), (got, b), got)
            assert torch.equal(y, x.relu()) and torch.equal(grad_x, x.relu())
            assert torch.equal(grad_b, x.relu().double().sum([0, 2, 3]).to(dtype))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("act", list(bias_act.activation_funcs))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_special_values(act, dtype):
    values = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-30, -0.0, 0.0]], dtype=dtype)
    for clamp in (None, 2.0):
        got, expected = (bias_act.bias_act(values, act=act, clamp=clamp, impl=impl) for impl in ("cuda", "ref"))
        if act == "swish":  # 0 * infinity or its limit: either way nothing to rely on.
            got, expected = got[:, [0, 1, 3, 5, 6, 7]], expected[:, [0, 1, 3, 5, 6, 7]]
        torch.testing.assert_close(got, expected, equal_nan=True)


def test_bfloat16_rounds_to_even_and_keeps_nan():
    bits = torch.arange(-(2**31), 2**31, 65521 * 7, dtype=torch.int64).to(torch.int32)
    x = bits.view(torch.float32)
    wide = torch.zeros(1, dtype=torch.bfloat16)
    y = torch.cat([bias_act.bias_act(x.to(torch.bfloat16), gain=g) for g in (1.0, 3.0)])
    expected = torch.cat([x.to(torch.bfloat16).float() * g for g in (1.0, 3.0)]).to(wide.dtype)
    assert torch.equal(y.isnan(), expected.isnan()) and torch.equal(y[~y.isnan()], expected[~expected.isnan()])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0,)])
def test_empty_tensors(shape):
    x = torch.zeros(shape, requires_grad=True)
    y = bias_act.bias_act(x, act="lrelu")
    assert y.shape == shape and torch.autograd.grad(y.sum(), x)[0].shape == shape


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_autograd(mode):
    x = torch.randn(2, 3, 4, 4)
    with mode():
        y = bias_act.bias_act(x, torch.ones(3), act="lrelu")
    torch.testing.assert_close(y, bias_act.bias_act(x, torch.ones(3), act="lrelu", impl="ref"))


def test_reference_ops_switches_kernels_off_and_on():
    x = torch.zeros(1)
    before = compiled.supports(x)
    with custom_ops.reference_ops(), custom_ops.reference_ops():
        assert not compiled.supports(x)
    assert compiled.supports(x) == before


@st.composite
def _resampling_cases(draw):
    taps = draw(st.one_of(st.integers(1, 13), st.tuples(st.integers(1, 6), st.integers(1, 6))))
    channels = draw(st.sampled_from([1, 3, 4, 40]))
    shape = (draw(st.integers(1, 3)), channels, draw(st.integers(1, 18)), draw(st.integers(1, 18)))
    factors = st.tuples(st.integers(1, 4), st.integers(1, 4))
    pads = tuple(draw(st.integers(-4, 8)) for _ in range(4))
    kwargs = dict(up=draw(factors), down=draw(factors), padding=pads, flip_filter=draw(st.booleans()), gain=4.0)
    return shape, taps, draw(st.booleans()), kwargs, draw(st.booleans()), draw(st.integers(0, 99))


def _resampling_tensors(case):
    shape, taps, outer, kwargs, nhwc, seed = case
    rng = torch.Generator().manual_seed(seed)
    f = torch.randn(taps, generator=rng)
    f = torch.outer(f[0], f[-1]) if outer and f.ndim == 2 else f
    x = torch.randn(shape, generator=rng)
    x = x.contiguous(memory_format=CL) if nhwc else x
    sizes = zip((shape[3], shape[2]), (f.shape[-1], f.shape[0]), kwargs["up"], (0, 2), strict=True)
    assume(all(size * up + sum(kwargs["padding"][i : i + 2]) >= count for size, count, up, i in sizes))
    return x, f, kwargs


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(_resampling_cases())
def test_upfirdn2d_equals_reference(case):
    x, f, kwargs = _resampling_tensors(case)
    grad = torch.randn_like(upfirdn2d.upfirdn2d(x, f, impl="ref", **kwargs))

    def run(impl):
        return _results(lambda x: upfirdn2d.upfirdn2d(x, f, impl=impl, **kwargs), [x], grad)

    for got, expected in zip(run("cuda"), run("ref"), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert got.is_contiguous() == expected.is_contiguous() and got.is_contiguous(memory_format=CL) == (
            expected.is_contiguous(memory_format=CL)
        )


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(_resampling_cases())
def test_upfirdn2d_in_bfloat16_is_float32_rounded_once(case):
    x, f, kwargs = _resampling_tensors(case)
    x = x.bfloat16()
    y = upfirdn2d.upfirdn2d(x, f, **kwargs)
    wide = upfirdn2d.upfirdn2d(x.float(), f, impl="ref", **kwargs)
    torch.testing.assert_close(y.float(), wide, rtol=2**-8, atol=1e-4)


def _zero_inserting(x, f, up, pads, down):
    """The formula word by word in PyTorch calls: insert zeros, pad, correlate with the flipped filter, decimate."""
    n, c, h, w = x.shape
    zeros = torch.zeros(n, c, h, up, w, up, dtype=x.dtype)
    zeros[:, :, :, 0, :, 0] = x
    padded = torch.nn.functional.pad(zeros.reshape(n, c, h * up, w * up), [*pads])
    weight = f.flip([0, 1]).to(x.dtype).expand(c, 1, *f.shape)
    return torch.nn.functional.conv2d(padded, weight, groups=c)[:, :, ::down, ::down]


@pytest.mark.parametrize("layout", [torch.contiguous_format, CL])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("up", "down", "pads"), [(1, 1, (2, 1, 2, 1)), (2, 1, (2, 1, 2, 1)), (1, 2, (1, 1, 1, 1))])
def test_usual_geometries_at_usual_sizes(up, down, pads, threads, layout):
    x = torch.randn(2, 32, 48, 48).contiguous(memory_format=layout)
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = upfirdn2d.upfirdn2d(x, f, up=up, down=down, padding=pads)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(y, _zero_inserting(x, f, up, pads, down))


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("kwargs", [{"up": 2}, {"down": 2}, {"up": 3, "down": 2, "padding": 3}])
def test_upfirdn2d_gradients_of_two_orders(kwargs, nhwc):
    x = torch.randn(1, 2, 6, 5, dtype=torch.float64).contiguous(memory_format=CL if nhwc else torch.contiguous_format)
    f = upfirdn2d.setup_filter([1, 3, 3, 1])

    def func(x):
        return upfirdn2d.upfirdn2d(x, f, **{"padding": 2, **kwargs}).square()

    assert torch.autograd.gradcheck(func, (x.requires_grad_(),))
    assert torch.autograd.gradgradcheck(func, (x,))


def test_nan_stays_where_the_filter_carries_it():
    x = torch.zeros(1, 2, 12, 12)
    x[0, 0, 6, 6] = float("nan")
    y = upfirdn2d.filter2d(x, upfirdn2d.setup_filter([1, 3, 3, 1]))
    assert y[0, 0].isnan().sum() == 16 and not y[0, 1].isnan().any()


@pytest.mark.parametrize("shape", [(0, 3, 8, 6), (2, 0, 8, 6)])
def test_resampling_an_empty_batch(shape):
    x = torch.zeros(shape, requires_grad=True)
    y = upfirdn2d.upsample2d(x, upfirdn2d.setup_filter([1, 3, 3, 1]), up=[2, 1])
    assert y.shape == (*shape[:2], 8, 12) and torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_networks_work_through_checkpoint_and_copies():
    layer = networks.SynthesisLayer(4, 6, w_dim=5, resolution=8, up=2)
    layer = copy.deepcopy(pickle.loads(pickle.dumps(layer)))
    x, w = torch.randn(2, 4, 4, 4, requires_grad=True), torch.randn(2, 5)
    with custom_ops.reference_ops():
        expected = torch.autograd.grad(layer(x, w, noise_mode="const").square().sum(), x)[0]
    y = torch.utils.checkpoint.checkpoint(layer, x, w, noise_mode="const", use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], expected)
