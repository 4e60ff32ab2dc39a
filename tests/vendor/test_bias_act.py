"""bias_act: table of activations, order of operations, gradients, layouts and refusals."""

import math

import numpy as np
import pytest
import torch
from torch_utils.ops import bias_act as ops

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
FORMULAS = {
    "linear": lambda t, alpha: t,
    "relu": lambda t, alpha: max(t, 0.0),
    "lrelu": lambda t, alpha: t if t > 0 else alpha * t,
    "tanh": lambda t, alpha: math.tanh(t),
    "sigmoid": lambda t, alpha: 1 / (1 + math.exp(-t)),
    "elu": lambda t, alpha: t if t > 0 else math.exp(t) - 1,
    "selu": lambda t, alpha: SELU_SCALE * (t if t > 0 else SELU_ALPHA * (math.exp(t) - 1)),
    "softplus": lambda t, alpha: math.log1p(math.exp(t)),
    "swish": lambda t, alpha: t / (1 + math.exp(-t)),
}
TABLE = {  # name: (alpha, gain, number, needs, second derivative)
    "linear": (0, 1, 1, "", False),
    "relu": (0, math.sqrt(2), 2, "y", False),
    "lrelu": (0.2, math.sqrt(2), 3, "y", False),
    "tanh": (0, 1, 4, "y", True),
    "sigmoid": (0, 1, 5, "y", True),
    "elu": (0, 1, 6, "y", True),
    "selu": (0, 1, 7, "y", True),
    "softplus": (0, 1, 8, "y", True),
    "swish": (0, math.sqrt(2), 9, "x", True),
}


def _loop(x, b, dim, act, alpha, gain, clamp):
    """Element by element, from the definition."""
    out = np.empty(x.shape)
    for index in np.ndindex(*x.shape):
        value = float(x[index]) + (float(b[index[dim]]) if b is not None else 0.0)
        value = gain * FORMULAS[act](value, alpha)
        out[index] = value if clamp is None else min(max(value, -clamp), clamp)
    return out


@pytest.mark.parametrize("act", list(TABLE))
def test_table_of_activations(act):
    spec = ops.activation_funcs[act]
    alpha, gain, number, needs, second = TABLE[act]
    assert list(ops.activation_funcs) == list(TABLE)
    assert (spec.def_alpha, spec.cuda_idx, spec.ref, spec.has_2nd_grad) == (alpha, number, needs, second)
    assert spec.def_gain == pytest.approx(gain, abs=1e-15)


@pytest.mark.parametrize("act", list(TABLE))
@pytest.mark.parametrize(
    ("alpha", "gain", "clamp"), [(None, None, None), (0.1, 0.5, None), (0.3, 2.0, 0.8), (0.0, 1.0, 0.0)]
)
@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 4, 2), 1), ((4, 5), 1), ((3, 2, 4), 2), ((6,), 0)])
def test_matches_elementwise_definition(act, alpha, gain, clamp, shape, dim):
    x, b = torch.randn(shape, dtype=torch.float64), torch.randn(shape[dim], dtype=torch.float64)
    y = ops.bias_act(x, b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp, impl="ref")
    alpha, gain = (TABLE[act][0] if alpha is None else alpha), (TABLE[act][1] if gain is None else gain)
    np.testing.assert_allclose(y.numpy(), _loop(x, b, dim, act, alpha, gain, clamp), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("act", list(TABLE))
@pytest.mark.parametrize("clamp", [None, 0.9])
def test_first_and_second_gradients(act, clamp):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def func(x, b):
        return ops.bias_act(x, b, act=act, clamp=clamp)

    assert torch.autograd.gradcheck(func, (x, b))
    assert torch.autograd.gradgradcheck(func, (x, b))


GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("impl", ["cuda", "ref"])
@pytest.mark.parametrize("act", [act for act in TABLE if act != "linear"])
def test_gradient_that_ends_at_the_slope_is_zero_and_not_absent(act, impl, device):
    """Adam tells the two apart; R1 and path length ask for such gradients of the last biases of a network."""
    x = torch.randn(2, 3, 4, 4, device=device, requires_grad=True)
    b = torch.randn(3, device=device, requires_grad=True)

    def gradients(y):
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [x, b], allow_unused=True)

    spec = ops.activation_funcs[act]
    expected = gradients(spec.func(x + b[:, None, None], spec.def_alpha) * spec.def_gain)
    found = gradients(ops.bias_act(x, b, act=act, impl=impl))
    assert all(grad is not None for grad in expected)
    for a, c in zip(found, expected, strict=True):
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize(("alpha", "gain"), [(0.2, 1.4), (0.0, 1.0), (1.0, 2.0), (-0.5, 1.0), (0.2, -1.0), (0.2, 0.0)])
def test_lrelu_gradient_equals_autograd_of_definition(alpha, gain):
    x = torch.randn(3, 4, requires_grad=True)
    with torch.no_grad():
        x[0, 0] = 0
    (got,) = torch.autograd.grad(ops.bias_act(x, act="lrelu", alpha=alpha, gain=gain).sum(), x)
    assert torch.equal(got, gain * torch.where(x > 0, 1.0, alpha))


def test_lrelu_slope_at_zero_is_alpha():
    x = torch.zeros(5, requires_grad=True)
    (grad,) = torch.autograd.grad(ops.bias_act(x, act="lrelu", alpha=0.25, gain=2).sum(), x)
    assert torch.equal(grad, torch.full([5], 0.5))


@pytest.mark.parametrize("act", list(TABLE))
def test_nan_propagates(act):
    y = ops.bias_act(torch.tensor([[float("nan"), 1.0]]), act=act, clamp=3)
    assert torch.equal(y.isnan(), torch.tensor([[True, False]]))


def test_clamp_applies_after_gain_and_stops_gradients():
    x = torch.tensor([[-3.0, 0.2, 3.0]], requires_grad=True)
    y = ops.bias_act(x, act="linear", gain=2, clamp=1)
    assert torch.equal(y, torch.tensor([[-1.0, 0.4, 1.0]]))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, torch.tensor([[0.0, 2.0, 0.0]]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
def test_keeps_dtype_and_layout(act, dtype, layout):
    x = torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=layout).requires_grad_()
    y = ops.bias_act(x, torch.randn(3).to(dtype), act=act, clamp=256)
    assert y.dtype == dtype and y.shape == x.shape and y.is_contiguous(memory_format=layout)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert grad.dtype == dtype and grad.is_contiguous(memory_format=layout)


def test_input_stays_and_output_can_be_changed_in_place():
    x = torch.randn(2, 3, requires_grad=True)
    before = x.detach().clone()
    y = ops.bias_act(x, gain=2.0)
    y.add_(1).sum().backward()
    assert torch.equal(x, before) and torch.equal(x.grad, torch.full_like(x, 2))
    ops.bias_act(x, act="lrelu")
    assert torch.equal(x, before)


def test_both_implementations_agree():
    x = torch.randn(2, 3)
    assert torch.equal(ops.bias_act(x, act="lrelu", impl="ref"), ops.bias_act(x, act="lrelu", impl="cuda"))


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"impl": "fast"}, "`impl`"),
        ({"act": "gelu"}, "`act`"),
        ({"clamp": -1}, "`clamp`"),
        ({"b": torch.zeros(4)}, "`b`"),
        ({"b": torch.zeros(3, 1)}, "`b`"),
        ({"b": torch.zeros(3, dtype=torch.float64)}, "`b`"),
        ({"b": torch.zeros(3), "dim": 2}, "`dim`"),
    ],
)
def test_refuses_wrong_arguments(kwargs, text):
    with pytest.raises(ValueError, match=text):
        ops.bias_act(torch.zeros(2, 3), **kwargs)
