"""Step ``ops``: our operations against the reference ones, and against what the card's memory allows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_utils import custom_ops
from torch_utils.ops import bias_act, scaled_bias_act, upfirdn2d

from benchmarks.gpu.step_process import Context, read_records, run_cases, seconds_per_call

LAYOUTS = dict(nhwc=torch.channels_last, nchw=torch.contiguous_format)
DTYPES = dict(fp16=torch.float16, fp32=torch.float32, bf16=torch.bfloat16)
FACTORS = dict(bias_act="b", scale="s", scaled_bias_act="snb", upsample2d="", downsample2d="", filter2d="")
BATCH = 64  # So large that no tensor fits into the card's cache, and that Python is not what is measured.


def main(context: Context) -> int:
    """Run the step."""
    cases = [("-".join(map(str, case)), lambda case=case: measure(context, *case)) for case in choose(context.quick)]
    return run_cases(context, cases, seconds=1.5)


def choose(quick: bool) -> Iterator[tuple[str, int, str, str]]:
    """Operation, resolution, number format, layout; what is asked for first comes first."""
    resolutions = (16,) if quick else (64, 128, 256)
    dtypes = ("fp32", "bf16") if quick else tuple(DTYPES)
    for dtype in dtypes:
        for layout in LAYOUTS:
            for resolution in resolutions:
                for op in FACTORS:
                    if resolution == resolutions[0] or (dtype == dtypes[0] and layout == "nhwc"):
                        yield op, resolution, dtype, layout


def measure(context: Context, op: str, resolution: int, dtype: str, layout: str) -> dict[str, Any]:
    """Milliseconds forward and backward of both; bytes that must be moved over the time ours takes."""
    device = context.device
    channels, batch = (8, 2) if context.quick else (16384 // resolution, BATCH)
    shape = [batch, channels, resolution, resolution]
    sizes = dict(s=[batch, channels], n=[batch, 1, resolution, resolution], b=[channels])
    x = torch.randn(shape, device=device).to(DTYPES[dtype], memory_format=LAYOUTS[layout]).requires_grad_()
    factors = [torch.randn(sizes[name], device=device).requires_grad_() for name in FACTORS[op]]
    taps = upfirdn2d.setup_filter([1, 3, 3, 1], device=device)
    found: dict[str, Any] = dict(shape=shape)
    for name in ("ours", "reference"):
        func = operation(op, taps)
        if name == "reference":
            with custom_ops.reference_ops():
                ms, y = _times(func, [x, *factors], context)
        else:
            ms, y = _times(func, [x, *factors], context)
        found[f"{name}_ms"] = ms
    # Forward: read x, write y. Backward: read the gradient, write that by x, and read x or y where it is needed.
    moved = dict(forward=_size(x) + _size(y), backward=_size(x) + _size(y))
    if op in ("bias_act", "scaled_bias_act"):
        moved["backward"] += _size(y)
    if "s" in FACTORS[op]:
        moved["backward"] += _size(x)
    found["gb_per_s"] = {part: moved[part] / found["ours_ms"][part] / 1e6 for part in moved}
    limit = next((record["gb_per_s"] for record in read_records(context.outdir)
                  if record["case"] == "bandwidth" and record["status"] == "ok"), None)
    if limit is not None:
        found["share"] = {part: speed / limit for part, speed in found["gb_per_s"].items()}
    found["times_as_fast"] = {part: found["reference_ms"][part] / found["ours_ms"][part] for part in moved}
    return found


def operation(op: str, taps: Tensor) -> Callable[..., Tensor]:
    """The operation of that name as networks call it."""
    return dict(
        bias_act=lambda x, b: bias_act.bias_act(x, b.to(x.dtype), act="lrelu", clamp=256.0),
        scale=scaled_bias_act.scaled_bias_act,
        scaled_bias_act=lambda x, s, n, b: scaled_bias_act.scaled_bias_act(x, s, n, b, act="lrelu", clamp=256.0),
        upsample2d=lambda x: upfirdn2d.upsample2d(x, taps),
        downsample2d=lambda x: upfirdn2d.downsample2d(x, taps),
        filter2d=lambda x: upfirdn2d.filter2d(x, taps),
    )[op]  # type: ignore[return-value]


def _times(func: Callable[..., Tensor], inputs: Sequence[Tensor], context: Context) -> tuple[dict[str, float], Tensor]:
    """Milliseconds forward, and backward alone, by all inputs."""
    y = func(*inputs)
    grad = torch.randn_like(y)
    timing: dict[str, Any] = dict(device=context.device, least_s=0.001 if context.quick else 0.02)
    with torch.no_grad():
        forward = seconds_per_call(lambda: func(*inputs), **timing)
    backward = seconds_per_call(lambda: torch.autograd.grad(y, inputs, grad, retain_graph=True), **timing)
    return dict(forward=1e3 * forward, backward=1e3 * backward), y


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
