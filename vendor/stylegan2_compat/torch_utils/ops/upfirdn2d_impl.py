"""upfirdn2d as PyTorch calls and as a compiled kernel, both differentiable to any order.

Zeros are never inserted: up-sampling is a strided transposed convolution, down-sampling a strided one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch_utils.ops import compiled


def out_size(size: int, taps: int, up: int, down: int, pads: tuple[int, int]) -> int:
    """Pixels of the result along one axis."""
    return (size * up + pads[0] + pads[1] - taps) // down + 1


class _Resample(torch.autograd.Function):
    """The linear map for a matrix of correlation taps; its transpose is the same map with other numbers."""

    @staticmethod
    def forward(ctx, x, taps, ups, downs, pads):
        ctx.save_for_backward(taps)
        ctx.set_materialize_grads(False)
        ctx.geometry = (x.shape[2:], ups, downs, pads)
        return _correlate(x, taps, ups, downs, pads)

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return (None,) * 5
        (taps,) = ctx.saved_tensors
        size, ups, downs, pads = ctx.geometry
        pads = _transposed_pads(size, grad.shape[2:], taps.shape, ups, downs, pads)
        return _Resample.apply(grad, taps.flip([0, 1]), downs, ups, pads), None, None, None, None


def _transposed_pads(
    size: Sequence[int],
    result: Sequence[int],
    taps: Sequence[int],
    ups: tuple[int, int],
    downs: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> tuple[int, int, int, int]:
    """Padding of the transpose, in which up- and down-sampling change places, for input and result [height, width].

    The sizes meet, and the first input pixel touches the first output pixel through the last tap.
    """
    (height, width), (out_height, out_width), (fh, fw), (px0, _, py0, _) = size, result, taps, pads
    return (
        fw - 1 - px0,
        width * ups[0] - out_width * downs[0] + px0 + 1 - ups[0],
        fh - 1 - py0,
        height * ups[1] - out_height * downs[1] + py0 + 1 - ups[1],
    )


def _correlate(
    x: torch.Tensor,
    taps: torch.Tensor,
    ups: tuple[int, int],
    downs: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> torch.Tensor:
    """Evaluate the map: correlation of the zero-filled, padded image with taps [fh, fw], decimated."""
    if x.numel() == 0:  # Convolutions refuse it.
        height = out_size(x.shape[2], taps.shape[0], ups[1], downs[1], pads[2:])
        return x.new_zeros([*x.shape[:2], height, out_size(x.shape[3], taps.shape[1], ups[0], downs[0], pads[:2])])
    if x.device.type == "cpu" and x.is_contiguous() and isinstance(x.shape[0], int):
        # Every image counts as a channel of one sample: CPU convolutions are slow for few channels, as of colours.
        # Not in an export with a free number of samples (a SymInt): a convolution's groups are a fixed number.
        y = _depthwise(x.flatten(0, 1)[None], taps, ups, downs, pads).contiguous()
    else:
        nhwc = x.is_contiguous(memory_format=torch.channels_last)
        y = _depthwise(x, taps, ups, downs, pads)
        y = y.contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
    # Not marked as a view, since autograd forbids changing a view from a custom function in place.
    return torch.ops.aten._unsafe_view(y, [*x.shape[:2], *y.shape[2:]])


def _depthwise(
    x: torch.Tensor,
    taps: torch.Tensor,
    ups: tuple[int, int],
    downs: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> torch.Tensor:
    """_correlate with one (transposed) convolution that has a group for each channel."""
    channels = x.shape[1]
    fh, fw = taps.shape
    px0, px1, py0, py1 = pads
    if ups == (1, 1):
        weight = taps.expand(channels, 1, fh, fw)
        if px0 == px1 >= 0 and py0 == py1 >= 0:
            return F.conv2d(x, weight, stride=downs[::-1], padding=(py0, px0), groups=channels)
        return F.conv2d(_pad(x, pads), weight, stride=downs[::-1], groups=channels)
    # The transposed convolution gives every position where a tap meets a pixel; crop or pad to the wanted ones.
    crops = (fw - 1 - px0, fw - ups[0] - px1, fh - 1 - py0, fh - ups[1] - py1)
    cut = (max(min(crops[2:]), 0), max(min(crops[:2]), 0))
    weight = taps.flip([0, 1]).expand(channels, 1, fh, fw)
    full = F.conv_transpose2d(x, weight, stride=ups[::-1], padding=cut, groups=channels)
    rest = (cut[1] - crops[0], cut[1] - crops[1], cut[0] - crops[2], cut[0] - crops[3])
    return _pad(full, rest)[:, :, :: downs[1], :: downs[0]]


def _pad(x: torch.Tensor, pads: tuple[int, int, int, int]) -> torch.Tensor:
    """Pad with zeros where positive, then crop where negative; a crop may exceed the unpadded image."""
    grow, shrink = [max(p, 0) for p in pads], [max(-p, 0) for p in pads]
    if any(grow):
        x = F.pad(x, grow)
    return x[:, :, shrink[2] : x.shape[2] - shrink[3], shrink[0] : x.shape[3] - shrink[1]]


def upfirdn2d_torch(
    x: torch.Tensor,
    f: torch.Tensor,
    ups: tuple[int, int],
    downs: tuple[int, int],
    pads: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> torch.Tensor:
    """The operation in PyTorch calls, for every device and dtype."""
    # The gain is applied before the filter is rounded to x's precision.
    taps = (f * gain ** (f.ndim / 2)).to(x.dtype)
    if not flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    if taps.ndim == 2:
        return _Resample.apply(x, taps, ups, downs, pads)
    x = _Resample.apply(x, taps[None, :], (ups[0], 1), (downs[0], 1), (*pads[:2], 0, 0))
    return _Resample.apply(x, taps[:, None], (1, ups[1]), (1, downs[1]), (0, 0, *pads[2:]))


class _CompiledResample(torch.autograd.Function):
    """The linear map in one kernel; its transpose is the same kernel with other numbers."""

    @staticmethod
    def forward(ctx, x, f, ups, downs, pads, flip_filter, gain):
        ctx.save_for_backward(f)
        ctx.set_materialize_grads(False)
        ctx.geometry = (x.shape[2:], ups, downs, pads, flip_filter, gain)
        fw, fh = f.shape[-1], f.shape[0]
        n, c, height, width = x.shape
        out_height = out_size(height, fh, ups[1], downs[1], pads[2:])
        out_width = out_size(width, fw, ups[0], downs[0], pads[:2])
        nhwc = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if nhwc else torch.contiguous_format
        x = x.contiguous(memory_format=layout)
        out = torch.empty([n, c, out_height, out_width], dtype=x.dtype, device=x.device, memory_format=layout)
        axis_x = (width, out_width, fw, ups[0], downs[0], pads[0])
        axis_y = (height, out_height, fh, ups[1], downs[1], pads[2])
        images = (n, c) if nhwc else (n * c, 1)
        tensors = (x.data_ptr(), f.data_ptr(), out.data_ptr())
        # A convolution is a correlation with the taps backwards.
        compiled.upfirdn2d(x, out, *tensors, *images, *axis_x, *axis_y, f.ndim == 1, not flip_filter, gain)
        return out

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return (None,) * 7
        (f,) = ctx.saved_tensors
        size, ups, downs, pads, flip_filter, gain = ctx.geometry
        pads = _transposed_pads(size, grad.shape[2:], (f.shape[0], f.shape[-1]), ups, downs, pads)
        grad = _CompiledResample.apply(grad, f, downs, ups, pads, not flip_filter, gain)
        return grad, None, None, None, None, None, None


def upfirdn2d_compiled(
    x: torch.Tensor,
    f: torch.Tensor,
    ups: tuple[int, int],
    downs: tuple[int, int],
    pads: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> torch.Tensor:
    """The operation in one kernel; in PyTorch calls for tensors or machines that no kernel is for."""
    if f.device != x.device or not compiled.supports(x):
        return upfirdn2d_torch(x, f, ups, downs, pads, flip_filter, gain)
    return _CompiledResample.apply(x, f.float().contiguous(), ups, downs, pads, flip_filter, gain)
