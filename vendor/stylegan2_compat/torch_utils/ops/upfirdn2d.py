"""Pad, up-sample, filter and down-sample images in one linear operation."""

from collections.abc import Sequence

import numpy as np
import torch
from torch_utils.ops.upfirdn2d_impl import out_size, upfirdn2d_compiled, upfirdn2d_torch

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
        if out_size(size, taps, u, d, p) < 1:
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


# What each value of `impl` runs.
_implementations = {"ref": upfirdn2d_torch, "cuda": upfirdn2d_compiled}
