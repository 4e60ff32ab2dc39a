"""scaled_bias_act: the formula, gradients by every input to two orders, number formats, layouts and refusals."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_utils.ops import bias_act
from torch_utils.ops.scaled_bias_act import scaled_bias_act

CL, CF = torch.channels_last, torch.contiguous_format


def _formula(x, scale, noise, b, act, alpha, gain, clamp):
    """The documented equation, term by term, in the widest format."""
    t = x if scale is None else x * scale[:, :, None, None]
    t = t if noise is None else t + noise
    t = t if b is None else t + b[:, None, None]
    spec = bias_act.activation_funcs[act]
    y = spec.func(t, spec.def_alpha if alpha is None else alpha) * (spec.def_gain if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


@st.composite
def _cases(draw):
    n, c, h, w = (draw(st.integers(1, most)) for most in (3, 40, 9, 9))
    present = draw(st.tuples(*[st.booleans()] * 3))
    noise_shape = draw(st.sampled_from([(n, 1, h, w), (1, 1, h, w), (h, w)]))
    numbers = dict(
        act=draw(st.sampled_from(["linear", "relu", "lrelu", "swish"])),
        alpha=draw(st.sampled_from([None, 0.1, -0.1])),
        gain=draw(st.sampled_from([None, 0.7, -1.0])),
        clamp=draw(st.sampled_from([None, 0.8])),
    )
    return (n, c, h, w), noise_shape, present, numbers, draw(st.sampled_from([CF, CL])), draw(st.integers(0, 99))


def _tensors(case, dtype, factor_dtype):
    shape, noise_shape, present, numbers, layout, seed = case
    rng = torch.Generator().manual_seed(seed)
    x, grad = (torch.randn(shape, generator=rng).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    factors = (torch.randn(size, generator=rng).to(factor_dtype) for size in (shape[:2], noise_shape, shape[1:2]))
    factors = [factor if there else None for factor, there in zip(factors, present, strict=True)]
    return x, factors, grad, numbers, layout


def _results(func, tensors, grad):
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = func(*leaves)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], grad)]


@pytest.mark.parametrize("impl", ["cuda", "ref"])
@settings(max_examples=120, deadline=None, derandomize=True)
@given(_cases())
def test_equals_the_formula_with_all_gradients(impl, case):
    x, factors, grad, numbers, layout = _tensors(case, torch.float32, torch.float32)
    got = _results(lambda *t: scaled_bias_act(*t, impl=impl, **numbers), (x, *factors), grad)
    wide = [None if t is None else t.double() for t in (x, *factors)]
    expected = _results(lambda *t: _formula(*t, **numbers), wide, grad.double())
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
    assert got[0].is_contiguous(memory_format=layout) and got[1].is_contiguous(memory_format=layout)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_cases())
def test_bfloat16_with_float32_factors_is_rounded_once(case):
    x, factors, _, numbers, layout = _tensors(case, torch.bfloat16, torch.float32)
    if numbers["act"] in ("relu", "lrelu"):
        numbers |= dict(alpha=0.1, gain=0.7)  # Else the reference runs, which rounds several times.
    y = scaled_bias_act(x, *factors, **numbers)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=layout)
    expected = _formula(x.double(), *(None if t is None else t.double() for t in factors), **numbers)
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("layout", [CF, CL])
@pytest.mark.parametrize("wanted", [w for w in itertools.product([False, True], repeat=4) if any(w)])
def test_any_choice_of_wanted_gradients(wanted, layout):
    n, c, h, w = 2, 5, 4, 3
    x = torch.randn(n, c, h, w).contiguous(memory_format=layout)
    tensors = (x, torch.randn(n, c), torch.randn(n, 1, h, w), torch.randn(c))
    tensors = [t.requires_grad_(want) for t, want in zip(tensors, wanted, strict=True)]
    leaves = [t for t in tensors if t.requires_grad]
    numbers = dict(act="lrelu", alpha=0.2, gain=1.5, clamp=2.0)
    got = torch.autograd.grad(scaled_bias_act(*tensors, **numbers).square().sum(), leaves)
    expected = torch.autograd.grad(_formula(*tensors, **numbers).square().sum(), leaves)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [CF, CL])
@pytest.mark.parametrize("act", ["linear", "relu", "lrelu", "tanh", "swish"])
@pytest.mark.parametrize("shared_noise", [False, True])
def test_two_orders_of_derivatives(act, layout, shared_noise):
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64).contiguous(memory_format=layout)
    noise_shape = (2, 4) if shared_noise else (2, 1, 2, 4)
    factors = (torch.randn(size, dtype=torch.float64) for size in ((2, 3), noise_shape, (3,)))
    inputs = [t.requires_grad_() for t in (x, *factors)]

    def func(*tensors):
        return scaled_bias_act(*tensors, act=act, clamp=2.5)

    assert torch.autograd.gradcheck(func, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(func, inputs, fast_mode=True)


def test_nan_propagates():
    x = torch.zeros(1, 2, 2, 2)
    x[0, 1, 0, 0] = float("nan")
    y = scaled_bias_act(x, scale=torch.ones(1, 2), act="lrelu", clamp=1)
    assert torch.equal(y.isnan(), x.isnan())


def test_empty_batch():
    x = torch.zeros(0, 2, 3, 3, requires_grad=True)
    y = scaled_bias_act(x, torch.zeros(0, 2), torch.zeros(3, 3), torch.zeros(2), act="lrelu")
    assert y.shape == x.shape and torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_input_that_is_neither_layout():
    base, scale = torch.randn(2, 3, 4, 8), torch.randn(2, 3)
    got, expected = (scaled_bias_act(x, scale, act="lrelu") for x in (base[..., ::2], base[..., ::2].contiguous()))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"x": torch.zeros(2, 3)}, "`x`"),
        ({"scale": torch.zeros(3)}, "`scale`"),
        ({"noise": torch.zeros(2, 3, 4, 4)}, "`noise`"),
        ({"b": torch.zeros(4)}, "`b`"),
        ({"act": "gelu"}, "`act`"),
        ({"clamp": -1}, "`clamp`"),
        ({"impl": "fast"}, "`impl`"),
    ],
)
def test_refuses_wrong_arguments(kwargs, text):
    with pytest.raises(ValueError, match=text):
        scaled_bias_act(**{"x": torch.zeros(2, 3, 4, 4), **kwargs})
