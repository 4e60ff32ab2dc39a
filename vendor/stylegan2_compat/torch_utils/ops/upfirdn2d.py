"""Pad, up-sample, filter and down-sample images in one linear operation.

Zeros are never inserted: up-sampling is a strided transposed convolution, down-sampling a strided one."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch_utils.ops import compiled

_FilterLike = torch.Tensor | np.ndarray | Sequence | float | None


def setup_filter(
    f: _FilterLike,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepare a filter for upfirdn2d.

    Args:
        f: Taps: None = 1, a number, a vector or a matrix. Left unchanged.
        device: Where the result lies.
        normalize: Divide by the sum of the taps, so that a constant image keeps its value.
        flip_filter: Reverse the taps along every axis.
        gain: Overall factor on a constant image; a vector gets its square root, since it is used twice.
        separable: Keep a vector as it is (True) or make the outer product with itself (False);
            None = True for vectors of at least 8 taps.

    Returns:
        float32 tensor, [taps] or [fh, fw].

    Raises:
        ValueError: If f is empty or has more than two axes, or if a matrix is to be separable.
    """
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32).detach()
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"Expected argument `f` to be a non-empty vector or matrix, but got {list(taps.shape)}")
    taps = taps.reshape(1) if taps.ndim == 0 else taps
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= 8
    if separable and taps.ndim == 2:
        raise ValueError(f"Expected argument `separable` to be False for a matrix, but got {separable}")
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    # The product is a fresh tensor, so the caller's array is never shared.
    return (taps * gain ** (taps.ndim / 2)).to(device)


def parse_scaling(name: str, scaling: int | Sequence[int]) -> tuple[int, int]:
    """Read a factor for both axes.

    Args:
        name: Argument name for the error text.
        scaling: One factor, or [x, y]; integers of at least 1.

    Returns:
        (x, y).

    Raises:
        ValueError: If it is anything else.
    """
    pair = tuple(scaling) if isinstance(scaling, Sequence) else (scaling, scaling)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ValueError(f"Expected argument `{name}` to be one or two integers of at least 1, but got {scaling}")
    return pair


def parse_padding(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Read a padding for all sides.

    Args:
        padding: One integer, [x, y], or [x_before, x_after, y_before, y_after]; negative values crop.

    Returns:
        (x_before, x_after, y_before, y_after).

    Raises:
        ValueError: If it is anything else.
    """
    sides = tuple(padding) if isinstance(padding, Sequence) else (padding,) * 4
    if len(sides) == 2:
        sides = (sides[0], sides[0], sides[1], sides[1])
    if len(sides) != 4 or not all(isinstance(v, int) for v in sides):
        raise ValueError(f"Expected argument `padding` to be one, two or four integers, but got {padding}")
    return sides


def filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    """Width and height of a filter; a vector acts along both axes, None is one tap.

    Raises:
        ValueError: If f is no vector or matrix.
    """
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2):
        raise ValueError(f"Expected argument `f` to be a vector or a matrix, but got {list(f.shape)}")
    return f.shape[-1], f.shape[0]


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> torch.Tensor:
    """Up-sample with zeros, pad, filter each channel, and keep every down-th pixel.

    Args:
        x: Images, [N, C, H, W].
        f: Filter from setup_filter, [taps] (separable) or [fh, fw]; None = one tap of 1.
        up: Factor of zero insertion, as parse_scaling; zeros follow each pixel, the last one too.
        down: Factor of decimation, as parse_scaling.
        padding: Padding of the up-sampled image, as parse_padding.
        flip_filter: False = convolution, True = correlation.
        gain: Factor on the result.
        impl: "cuda" prefers a compiled kernel, on the CPU too; "ref" excludes it.

    Returns:
        [N, C, OH, OW] of x's dtype, with OW = (W * up + padding - taps) // down + 1, OH alike;
        differentiable by x to any order.

    Raises:
        ValueError: If an argument has a wrong shape or value, or if the result would be empty.
    """
    if impl not in _implementations:
        raise ValueError(f"Expected argument `impl` to be one of {sorted(_implementations)}, but got {impl!r}")
    if x.ndim != 4:
        raise ValueError(f"Expected argument `x` to be of shape [N, C, H, W], but got {list(x.shape)}")
    if f is not None and f.requires_grad:
        raise ValueError("Expected argument `f` to be a constant, but got a tensor that requires gradients")
    ups, downs, pads = parse_scaling("up", up), parse_scaling("down", down), parse_padding(padding)
    for axis, taps, size, u, d, p in zip(
        "xy", filter_size(f), (x.shape[3], x.shape[2]), ups, downs, (pads[:2], pads[2:]), strict=True
    ):
        if _out_size(size, taps, u, d, p) < 1:
            raise ValueError(
                f"Expected argument `padding` to leave at least {taps} pixels along {axis}, but got {padding}"
            )
    if f is None:
        f = torch.ones([1, 1], device=x.device)
    return _implementations[impl](x, f, ups, downs, pads, flip_filter, gain)


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> torch.Tensor:
    """Filter images at the same size; arguments as upfirdn2d, padding on top of what keeps the size.

    Returns:
        [N, C, H, W] for padding 0.
    """
    fw, fh = filter_size(f)
    px0, px1, py0, py1 = parse_padding(padding)
    pads = [px0 + fw // 2, px1 + (fw - 1) // 2, py0 + fh // 2, py1 + (fh - 1) // 2]
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> torch.Tensor:
    """Enlarge images by whole factors; arguments as upfirdn2d, padding on top of what centres the result.

    Returns:
        [N, C, H * up, W * up] for padding 0, at the brightness of x.
    """
    ux, uy = parse_scaling("up", up)
    fw, fh = filter_size(f)
    px0, px1, py0, py1 = parse_padding(padding)
    pads = [px0 + (fw + ux - 1) // 2, px1 + (fw - ux) // 2, py0 + (fh + uy - 1) // 2, py1 + (fh - uy) // 2]
    return upfirdn2d(x, f, up=[ux, uy], padding=pads, flip_filter=flip_filter, gain=gain * ux * uy, impl=impl)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> torch.Tensor:
    """Shrink images by whole factors; arguments as upfirdn2d, padding on top of what centres the result.

    Returns:
        [N, C, H / down, W / down] for padding 0.
    """
    dx, dy = parse_scaling("down", down)
    fw, fh = filter_size(f)
    px0, px1, py0, py1 = parse_padding(padding)
    pads = [px0 + (fw - dx + 1) // 2, px1 + (fw - dx) // 2, py0 + (fh - dy + 1) // 2, py1 + (fh - dy) // 2]
    return upfirdn2d(x, f, down=[dx, dy], padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def _out_size(size: int, taps: int, up: int, down: int, pads: tuple[int, int]) -> int:
    """Pixels of the result along one axis."""
    return (size * up + pads[0] + pads[1] - taps) // down + 1


class _Resample(torch.autograd.Function):
    """The linear map for a matrix of correlation taps; its transpose is the same map with other numbers."""

    @staticmethod
    def forward(ctx, x, taps, ups, downs, pads):
        ctx.save_for_backward(taps)
        ctx.geometry = (x.shape[2:], ups, downs, pads)
        return _correlate(x, taps, ups, downs, pads)

    @staticmethod
    def backward(ctx, grad):
        (taps,) = ctx.saved_tensors
        size, ups, downs, pads = ctx.geometry
        pads = _transposed_pads(size, grad.shape[2:], taps.shape, ups, downs, pads)
        return _Resample.apply(grad, taps.flip([0, 1]), downs, ups, pads), None, None, None, None


def _transposed_pads(
    size: Sequence[int],
    out_size: Sequence[int],
    taps: Sequence[int],
    ups: tuple[int, int],
    downs: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> tuple[int, int, int, int]:
    """Padding of the transpose, in which up- and down-sampling change places, for sizes [height, width].

    The sizes meet, and the first input pixel touches the first output pixel through the last tap.
    """
    (height, width), (out_height, out_width), (fh, fw), (px0, _, py0, _) = size, out_size, taps, pads
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
        height = _out_size(x.shape[2], taps.shape[0], ups[1], downs[1], pads[2:])
        return x.new_zeros([*x.shape[:2], height, _out_size(x.shape[3], taps.shape[1], ups[0], downs[0], pads[:2])])
    if x.device.type == "cpu" and x.is_contiguous():
        # Every image counts as a channel of one sample: CPU convolutions are slow for few channels, as of colours.
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


def _upfirdn2d_torch(
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
        ctx.geometry = (x.shape[2:], ups, downs, pads, flip_filter, gain)
        fw, fh = filter_size(f)
        n, c, height, width = x.shape
        out_height = _out_size(height, fh, ups[1], downs[1], pads[2:])
        out_width = _out_size(width, fw, ups[0], downs[0], pads[:2])
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
        (f,) = ctx.saved_tensors
        size, ups, downs, pads, flip_filter, gain = ctx.geometry
        pads = _transposed_pads(size, grad.shape[2:], filter_size(f)[::-1], ups, downs, pads)
        grad = _CompiledResample.apply(grad, f, downs, ups, pads, not flip_filter, gain)
        return grad, None, None, None, None, None, None


def _upfirdn2d_compiled(
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
        return _upfirdn2d_torch(x, f, ups, downs, pads, flip_filter, gain)
    return _CompiledResample.apply(x, f.float().contiguous(), ups, downs, pads, flip_filter, gain)


# What each value of `impl` runs.
_implementations = {"ref": _upfirdn2d_torch, "cuda": _upfirdn2d_compiled}
