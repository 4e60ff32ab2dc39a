"""The compiled kernel of bias_act and scaled_bias_act as a differentiable function.

One pass over the elements forward and one backward, which takes the sums for scale, noise and bias along."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch_utils.ops import compiled

_LINEAR = 1  # As in bias_act.h
_NO_SUMS, _SUM_SCALE, _ALL_SUMS = 0, 2, 7  # As Sums in bias_act.h
# By which of scale, noise and bias a gradient is wanted.
_SUMS = {(False, False, False): _NO_SUMS, (False, False, True): 1, (True, False, False): _SUM_SCALE}


class Activation(NamedTuple):
    """What happens after the bias."""

    func: Callable[[torch.Tensor, float], torch.Tensor]  # func(t, alpha), differentiable to any order.
    index: int  # type: ignore[assignment]  # Number in bias_act.h; hides a method of tuples.
    from_output: bool  # Whether the output is enough to differentiate: piecewise linear, alpha >= 0, gain > 0.
    alpha: float
    gain: float
    clamp: float | None


_PRODUCT = Activation(lambda t, alpha: t, _LINEAR, True, 0.0, 1.0, None)  # x * scale, and nothing after it.


def fused_activation(
    spec: Mapping[str, Any], alpha: float, gain: float, clamp: float | None
) -> Activation | None:
    """Settings for an entry of `activation_funcs`; None if the kernel cannot differentiate these numbers."""
    # The slope of piecewise linear activations is told from the sign of the output.
    piecewise = not spec["has_2nd_grad"]
    if piecewise and spec["cuda_idx"] != _LINEAR and not (gain > 0 and alpha >= 0):
        return None
    return Activation(spec["func"], spec["cuda_idx"], piecewise, alpha, gain, clamp)


class Layout(NamedTuple):
    """A dense tensor as the kernels see it: [n, channels, pixels], or [n, pixels, channels] if channels_last."""

    n: int
    channels: int
    pixels: int
    channels_last: bool
    memory_format: torch.memory_format


def layout_of(x: torch.Tensor, dim: int) -> Layout | None:
    """How kernels see x with channels along axis `dim`; None if x is not dense in one of the two orders."""
    if x.is_contiguous() and x.ndim > 0:
        n, pixels = math.prod(x.shape[:dim]), math.prod(x.shape[dim + 1 :])
        return Layout(n, x.shape[dim], pixels, False, torch.contiguous_format)
    if dim == 1 and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return Layout(x.shape[0], x.shape[1], x.shape[2] * x.shape[3], True, torch.channels_last)
    return None


def without_samples(layout: Layout) -> Layout:
    """The same elements as one sample, for tensors that have nothing per sample."""
    if layout.channels_last or layout.pixels == 1:
        return layout._replace(n=1, pixels=layout.n * layout.pixels, channels_last=True)
    return layout


def no_gradient(y: torch.Tensor) -> torch.Tensor:
    """Zeros of the shape of y that take no memory: Adam tells a gradient of zero from an absent one."""
    return y.new_zeros([]).expand_as(y)


class FusedBiasAct(torch.autograd.Function):
    """clamp(gain * act(x * scale + noise + bias)), on tensors for which `compiled.supports` holds.

    x is dense as `layout` says; scale [n, channels], noise [n or 1, pixels] and bias [channels] are dense, of the
    compute dtype, or None.
    """

    @staticmethod
    def forward(ctx, x, scale, noise, bias, layout, act):
        y = torch.empty_like(x)
        compiled.bias_act_forward(x, act.index, *_fields(layout, act, y, x=x, scale=scale, noise=noise, bias=bias))
        if act.from_output:
            # Where the slope is one everywhere, the output is not needed, and the caller may change it.
            keep_y = act.index != _LINEAR or act.clamp is not None
            saved = (x if ctx.needs_input_grad[1] else None, scale, None, None, y if keep_y else None)
        else:
            saved = (x, scale, noise, bias, None)
        ctx.save_for_backward(*saved)
        ctx.set_materialize_grads(False)
        ctx.layout, ctx.act, ctx.noise_rows = layout, act, 0 if noise is None else noise.shape[0]
        return y

    @staticmethod
    def backward(ctx, grad):
        if grad is None:  # The second derivative reaches an output that it does not depend on; zeros would go on.
            return (None,) * 6
        x, scale, noise, bias, y = ctx.saved_tensors
        layout, act, needs = ctx.layout, ctx.act, ctx.needs_input_grad[:4]
        grad = grad.contiguous(memory_format=layout.memory_format)
        if torch.is_grad_enabled() or grad.device.type not in compiled.FUSED_SUMS:
            by_input = _gradient_by_input(grad, x, scale, noise, bias, y, layout, act)
            grads = _spread(by_input, x, scale, ctx.noise_rows, layout, needs)
            return *grads, None, None

        wide: dict[str, Any] = dict(dtype=compiled.compute_dtype(grad))
        grad_x = torch.empty_like(grad)
        grad_scale = torch.empty([layout.n, layout.channels], **wide) if needs[1] else None
        grad_noise = torch.empty([layout.n, layout.pixels], **wide) if needs[2] else None
        grad_bias = torch.empty([layout.channels], **wide) if needs[3] else None
        sums = _SUMS.get(needs[1:], _ALL_SUMS)
        outs = (grad_scale, grad_noise, grad_bias)
        fields = _fields(layout, act, grad_x, x, y, grad, scale, noise, bias, *outs)
        compiled.bias_act_backward(grad, act.index, sums, *fields)
        if grad_noise is not None and ctx.noise_rows < layout.n:
            grad_noise = grad_noise.sum(dim=0, keepdim=True)
        return grad_x if needs[0] else None, grad_scale, grad_noise, grad_bias, None, None


class _SlopeProduct(torch.autograd.Function):
    """grad times the slope at the output y; linear in grad, and constant in y almost everywhere."""

    @staticmethod
    def forward(ctx, grad, y, layout, act):
        ctx.save_for_backward(y)
        ctx.set_materialize_grads(False)
        ctx.layout, ctx.act = layout, act
        out = torch.empty_like(grad)
        fields = _fields(without_samples(layout), act, out, None, y, grad)
        compiled.bias_act_backward(grad, act.index, _NO_SUMS, *fields)
        return out

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return (None,) * 4
        (y,) = ctx.saved_tensors
        grad = grad.contiguous(memory_format=ctx.layout.memory_format)
        # As PyTorch's operations, on every device: zeros where the slope changes nowhere, for Adam steps on them too.
        by_y = no_gradient(y) if ctx.act.index != _LINEAR else None
        return _SlopeProduct.apply(grad, y, ctx.layout, ctx.act), by_y, None, None


class _Dot(torch.autograd.Function):
    """Sum of a * x over the pixels of each channel of each sample, [n, channels]."""

    @staticmethod
    def forward(ctx, a, x, layout):
        ctx.save_for_backward(a, x)
        ctx.set_materialize_grads(False)
        ctx.layout = layout
        if a.device.type not in compiled.FUSED_SUMS:
            return (_rows(a, layout).to(compiled.compute_dtype(a)) * _rows(x, layout)).sum(dim=2)
        out = torch.empty([layout.n, layout.channels], dtype=compiled.compute_dtype(a))
        unused = torch.empty_like(a)  # The kernel's main result; it must live until the kernel is done.
        fields = _fields(layout, _PRODUCT, unused, x, None, a, grad_scale=out)
        compiled.bias_act_backward(a, _LINEAR, _SUM_SCALE, *fields)
        return out

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return (None,) * 3
        a, x = ctx.saved_tensors
        grad = grad.contiguous()
        return *(FusedBiasAct.apply(t, grad, None, None, ctx.layout, _PRODUCT) for t in (x, a)), None


def _fields(
    layout: Layout,
    act: Activation,
    out: torch.Tensor,
    x: torch.Tensor | None = None,
    y: torch.Tensor | None = None,
    grad: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    grad_scale: torch.Tensor | None = None,
    grad_noise: torch.Tensor | None = None,
    grad_bias: torch.Tensor | None = None,
) -> tuple[float, ...]:
    """The fields of BiasAct in bias_act.h."""
    address = compiled.address
    n, channels, pixels, channels_last, _ = layout
    return (
        address(x), address(y), address(grad), address(scale), address(noise), address(bias),
        out.data_ptr(), address(grad_scale), address(grad_noise), address(grad_bias),
        n, channels, pixels, channels_last, noise is not None and noise.shape[0] == n,
        act.alpha, act.gain, math.nan if act.clamp is None else act.clamp,  # No comparison with NaN is true: no limit.
    )  # fmt: skip


def _gradient_by_input(grad, x, scale, noise, bias, y, layout, act):
    """Gradient by the activation's input, as a differentiable function of grad and the saved tensors."""
    if act.from_output and y is None:
        return grad if act.gain == 1 else grad * act.gain
    if act.from_output:
        return _SlopeProduct.apply(grad, y, layout, act)
    t = _rows(x, layout).to(compiled.compute_dtype(x))
    t = t if scale is None else t * scale[:, :, None]
    t = t if noise is None else t + noise[:, None, :]
    t = t if bias is None else t + bias[:, None]
    with torch.enable_grad():
        t = t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
        u = act.func(t, act.alpha) * act.gain
        u = u if act.clamp is None else u.clamp(-act.clamp, act.clamp)
    (by_input,) = torch.autograd.grad(u, t, _rows(grad, layout).to(u.dtype), create_graph=torch.is_grad_enabled())
    return _from_rows(by_input.to(grad.dtype), grad, layout)


def _spread(by_input, x, scale, noise_rows, layout, needs):
    """Gradients by x, scale, noise and bias from the one by the activation's input; differentiable."""
    rows, wide = _rows(by_input, layout), compiled.compute_dtype(by_input)
    grad_x = grad_scale = grad_noise = grad_bias = None
    if needs[0]:
        grad_x = by_input
        if scale is not None:
            grad_x = FusedBiasAct.apply(by_input, scale, None, None, layout, _PRODUCT)
    if needs[1]:
        grad_scale = _Dot.apply(by_input, x, layout)
    if needs[2]:
        dims = [0, 1] if noise_rows < layout.n else [1]
        grad_noise = rows.sum(dim=dims, dtype=wide).reshape(noise_rows, layout.pixels)
    if needs[3]:
        grad_bias = rows.sum(dim=[0, 2], dtype=wide)
    return grad_x, grad_scale, grad_noise, grad_bias


def _rows(t: torch.Tensor, layout: Layout) -> torch.Tensor:
    """t as [n, channels, pixels], in the order of its elements in memory or transposed."""
    if not layout.channels_last:
        return t.reshape(layout.n, layout.channels, layout.pixels)
    t = t.movedim(1, -1) if layout.memory_format == torch.channels_last else t
    return t.reshape(layout.n, layout.pixels, layout.channels).transpose(1, 2)


def _from_rows(rows: torch.Tensor, like: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The inverse of _rows for tensors of the shape of `like`."""
    if not layout.channels_last:
        return rows.reshape(like.shape)
    if layout.memory_format == torch.channels_last:
        return rows.transpose(1, 2).reshape(like.movedim(1, -1).shape).movedim(-1, 1)
    return rows.transpose(1, 2).reshape(like.shape)
