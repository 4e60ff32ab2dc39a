"""bias_act of feature maps that are scaled per sample and channel, and get noise, in the same pass.

One call does what follows a modulated convolution: demodulation, noise, bias, activation, gain and clamp."""

import torch
from torch_utils.ops import bias_act, compiled
from torch_utils.ops.fused_bias_act import FusedBiasAct, fused_activation, layout_of, without_samples


def scaled_bias_act(
    x: torch.Tensor,
    scale: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> torch.Tensor:
    """clamp(gain * act(x * scale + noise + b)).

    Scale, noise and bias may be float32 whatever x is; the kernel computes in float32 and rounds the result once.

    Args:
        x: Feature maps, [N, C, H, W].
        scale: Factor of each channel of each sample, [N, C]; None = 1.
        noise: Summand of all channels, [N, 1, H, W], [1, 1, H, W] or [H, W]; None = 0.
        b: Bias, [C]; None = 0.
        act: Key of bias_act.activation_funcs.
        alpha: As in bias_act.bias_act.
        gain: As in bias_act.bias_act.
        clamp: As in bias_act.bias_act.
        impl: "cuda" prefers a compiled kernel, on the CPU too; "ref" excludes it.

    Returns:
        [N, C, H, W] of x's dtype and memory format; differentiable by x, scale, noise and b to any order.

    Raises:
        ValueError: If an argument has an unknown name, a wrong shape, or is out of range.
    """
    _check_shapes(x, scale, noise, b)
    noise = None if noise is None else noise.reshape(-1, 1, *noise.shape[-2:])
    if impl == "cuda" and act in bias_act.activation_funcs and (clamp is None or clamp >= 0):
        spec = bias_act.activation_funcs[act]
        alpha, gain = spec.def_alpha if alpha is None else alpha, spec.def_gain if gain is None else gain
        settings = fused_activation(spec, float(alpha), float(gain), None if clamp is None else float(clamp))
        layout = layout_of(x, 1)
        if settings is not None and layout is not None and compiled.supports(x):
            wide = compiled.compute_dtype(x)
            rows = None if noise is None else noise.flatten(1)
            factors = (None if t is None else t.to(wide).contiguous() for t in (scale, rows, b))
            layout = without_samples(layout) if scale is None and noise is None else layout
            return FusedBiasAct.apply(x, *factors, layout, settings)

    # In x's precision: fused into as few passes as PyTorch's own operators allow.
    scale = None if scale is None else scale.to(x.dtype)[:, :, None, None]
    noise = None if noise is None else noise.to(x.dtype)
    if scale is not None:
        x = x * scale if noise is None else torch.addcmul(noise, x, scale)
    elif noise is not None:
        x = x + noise
    b = None if b is None else b.to(x.dtype)
    return bias_act.bias_act(x, b, act=act, alpha=alpha, gain=gain, clamp=clamp, impl=impl)


def _check_shapes(
    x: torch.Tensor, scale: torch.Tensor | None, noise: torch.Tensor | None, b: torch.Tensor | None
) -> None:
    """Raise ValueError unless the tensors belong together."""
    if x.ndim != 4:
        raise ValueError(f"Expected argument `x` to be of shape [N, C, H, W], but got {list(x.shape)}")
    n, channels, height, width = x.shape
    if scale is not None and scale.shape != (n, channels):
        raise ValueError(f"Expected argument `scale` to be of shape {[n, channels]}, but got {list(scale.shape)}")
    allowed = ((height, width), (1, 1, height, width), (n, 1, height, width))
    if noise is not None and noise.shape not in allowed:
        raise ValueError(f"Expected argument `noise` to be of shape {list(allowed[-1])}, but got {list(noise.shape)}")
    if b is not None and b.shape != (channels,):
        raise ValueError(f"Expected argument `b` to be of shape {[channels]}, but got {list(b.shape)}")
