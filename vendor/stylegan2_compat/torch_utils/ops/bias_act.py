"""Bias, activation, gain and clamp in one call.

The order is fixed: add the bias, apply the activation, multiply by the gain, clamp."""

import math
from collections.abc import Callable
from typing import Any

import dnnlib
import torch
import torch.nn.functional as F
from torch_utils.ops import compiled
from torch_utils.ops.fused_bias_act import FusedBiasAct, fused_activation, layout_of, no_gradient, without_samples

SQRT2 = math.sqrt(2)


def _entry(
    func: Callable[[torch.Tensor, float], torch.Tensor],
    cuda_idx: int,
    ref: str,
    def_alpha: float = 0,
    def_gain: float = 1,
    has_2nd_grad: bool = False,
) -> dnnlib.EasyDict:
    """One row of `activation_funcs`.

    Args:
        func: Activation, called as func(t, alpha).
        cuda_idx: Number of the activation in a compiled kernel.
        ref: What a compiled kernel needs to differentiate: "" nothing, "x" the input, "y" the output.
        def_alpha: Shape parameter when the caller gives none.
        def_gain: Output factor when the caller gives none; keeps the variance near one.
        has_2nd_grad: Whether the second derivative is non-zero somewhere.
    """
    return dnnlib.EasyDict(
        func=func, def_alpha=def_alpha, def_gain=def_gain, cuda_idx=cuda_idx, ref=ref, has_2nd_grad=has_2nd_grad
    )


activation_funcs: dict[str, Any] = {
    "linear": _entry(lambda t, alpha: t, 1, ""),
    "relu": _entry(lambda t, alpha: F.relu(t), 2, "y", def_gain=SQRT2),
    "lrelu": _entry(lambda t, alpha: F.leaky_relu(t, alpha), 3, "y", def_alpha=0.2, def_gain=SQRT2),
    "tanh": _entry(lambda t, alpha: torch.tanh(t), 4, "y", has_2nd_grad=True),
    "sigmoid": _entry(lambda t, alpha: torch.sigmoid(t), 5, "y", has_2nd_grad=True),
    "elu": _entry(lambda t, alpha: F.elu(t), 6, "y", has_2nd_grad=True),
    "selu": _entry(lambda t, alpha: F.selu(t), 7, "y", has_2nd_grad=True),
    "softplus": _entry(lambda t, alpha: F.softplus(t), 8, "y", has_2nd_grad=True),
    "swish": _entry(lambda t, alpha: torch.sigmoid(t) * t, 9, "x", def_gain=SQRT2, has_2nd_grad=True),
}


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> torch.Tensor:
    """Add a bias, apply an activation, scale, and clamp.

    Args:
        x: Input of any shape.
        b: Bias, [x.shape[dim]], of x's dtype; None = no bias.
        dim: Axis of x the bias belongs to; without a bias it is ignored.
        act: Key of `activation_funcs`.
        alpha: Slope of "lrelu" for negative values; None = 0.2. The other activations have no shape parameter.
        gain: Factor after the activation; None = the activation's own (sqrt(2) for relu, lrelu and swish).
        clamp: Largest absolute value of the result, at least 0; None = no limit.
        impl: "cuda" prefers a compiled kernel, on the CPU too; "ref" excludes it.

    Returns:
        Tensor of x's shape, dtype and memory format; differentiable to any order.

    Raises:
        ValueError: If an argument has an unknown name, a wrong shape, or is out of range.
    """
    if impl not in _implementations:
        raise ValueError(f"Expected argument `impl` to be one of {sorted(_implementations)}, but got {impl!r}")
    if act not in activation_funcs:
        raise ValueError(f"Expected argument `act` to be one of {list(activation_funcs)}, but got {act!r}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"Expected argument `clamp` to be None or at least 0, but got {clamp}")
    if b is not None:
        _check_bias(x, b, dim)
    spec = activation_funcs[act]
    alpha = float(spec.def_alpha if alpha is None else alpha)
    gain = float(spec.def_gain if gain is None else gain)
    return _implementations[impl](x, b, dim, act, alpha, gain, None if clamp is None else float(clamp))


def _check_bias(x: torch.Tensor, b: torch.Tensor, dim: int) -> None:
    """Raise ValueError unless b is a bias for axis `dim` of x."""
    if not 0 <= dim < x.ndim:
        raise ValueError(f"Expected argument `dim` to be an axis of x, in 0..{x.ndim - 1}, but got {dim}")
    if b.ndim != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(f"Expected argument `b` to be of shape [{x.shape[dim]}], but got {list(b.shape)}")
    if b.dtype != x.dtype:
        raise ValueError(f"Expected argument `b` to be of x's dtype, {x.dtype}, but got {b.dtype}")


def _bias_act_torch(
    x: torch.Tensor, b: torch.Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> torch.Tensor:
    """The operation in PyTorch calls, for every device and dtype."""
    if act == "lrelu" and alpha >= 0 and gain > 0:
        x = _BiasLeakyRelu.apply(x, b, dim, alpha, gain)
    else:
        x = activation_funcs[act].func(_add_bias(x, b, dim), alpha)
        if gain != 1:
            x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def _add_bias(x: torch.Tensor, b: torch.Tensor | None, dim: int) -> torch.Tensor:
    """x + b along axis `dim`; x itself without a bias."""
    if b is None:
        return x
    return x + b.reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])


class _BiasLeakyRelu(torch.autograd.Function):
    """Bias, leaky ReLU and gain in one new tensor, which is also all that the backward pass keeps.

    Needs alpha >= 0 and gain > 0, so that the result is positive exactly where the activation's input is.
    """

    @staticmethod
    def forward(ctx, x, b, dim, alpha, gain):
        y = F.leaky_relu(x, alpha) if b is None else F.leaky_relu_(_add_bias(x, b, dim), alpha)
        if gain != 1:
            y.mul_(gain)
        ctx.save_for_backward(y)
        ctx.set_materialize_grads(False)
        ctx.dim, ctx.alpha, ctx.gain = dim, alpha, gain
        return y

    @staticmethod
    def backward(ctx, grad):
        if grad is None:  # The second derivative reaches an output that it does not depend on; zeros would go on.
            return (None,) * 5
        (y,) = ctx.saved_tensors
        need_x, need_b = ctx.needs_input_grad[:2]
        grad_x = _LeakyReluSlope.apply(grad, y, ctx.alpha, ctx.gain) if need_x or need_b else None
        # An empty list of axes would mean all of them.
        axes = [axis for axis in range(y.ndim) if axis != ctx.dim]
        grad_b = (grad_x.sum(axes) if axes else grad_x) if need_b and grad_x is not None else None
        return grad_x if need_x else None, grad_b, None, None, None


class _LeakyReluSlope(torch.autograd.Function):
    """grad times the slope at y; linear in grad, and constant in y almost everywhere."""

    @staticmethod
    def forward(ctx, grad, y, alpha, gain):
        ctx.save_for_backward(y)
        ctx.set_materialize_grads(False)
        ctx.alpha, ctx.gain = alpha, gain
        out = torch.ops.aten.leaky_relu_backward(grad, y, alpha, False)
        return out.mul_(gain) if gain != 1 else out

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return (None,) * 4
        (y,) = ctx.saved_tensors
        return _LeakyReluSlope.apply(grad, y, ctx.alpha, ctx.gain), no_gradient(y), None, None


def _bias_act_compiled(
    x: torch.Tensor, b: torch.Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> torch.Tensor:
    """The operation in one kernel; in PyTorch calls for tensors, parameters or machines that no kernel is for."""
    settings = fused_activation(activation_funcs[act], alpha, gain, clamp)
    nothing_to_do = act == "linear" and b is None and gain == 1 and clamp is None
    layout = layout_of(x, min(1, x.ndim - 1) if b is None else dim)
    if settings is None or nothing_to_do or layout is None or not compiled.supports(x):
        return _bias_act_torch(x, b, dim, act, alpha, gain, clamp)
    bias = None if b is None else b.to(compiled.compute_dtype(x)).contiguous()
    return FusedBiasAct.apply(x, None, None, bias, without_samples(layout), settings)


# What each value of `impl` runs.
_implementations = {"ref": _bias_act_torch, "cuda": _bias_act_compiled}
