"""Convolution with FIR up- or down-sampling.

The order of filter and convolution is chosen so that the convolution runs at the lower cost."""

from typing import Any

import torch
from torch_utils.ops import conv2d_gradfix
from torch_utils.ops.upfirdn2d import filter_size, parse_padding, upfirdn2d


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | list[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> torch.Tensor:
    """Up-sample, convolve, and down-sample.

    Args:
        x: Input, [N, I, H, W].
        w: Weight, [O, I // groups, kh, kw], of x's dtype.
        f: Low-pass filter from upfirdn2d.setup_filter; None = one tap.
        up: Factor of up-sampling before the convolution.
        down: Factor of down-sampling after the convolution.
        padding: Padding of the up-sampled image, as upfirdn2d.parse_padding.
        groups: Number of independent channel groups.
        flip_weight: True = correlation with w (as torch), False = convolution.
        flip_filter: True = correlation with f, False = convolution.

    Returns:
        [N, O, OH, OW]; differentiable by x and w to any order.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value.
    """
    _check_arguments(x, w, up, down, groups)
    kh, kw = w.shape[2:]
    pads = _total_padding(padding, filter_size(f), up, down)
    fir: dict[str, Any] = {"f": f, "flip_filter": flip_filter}
    pointwise = kh == kw == 1

    if pointwise and down > 1 and up == 1:
        # Fewer pixels first: a 1x1 convolution commutes with the filter.
        return _conv(upfirdn2d(x, down=down, padding=pads, **fir), w, groups=groups)
    if pointwise and up > 1 and down == 1:
        return upfirdn2d(_conv(x, w, groups=groups), up=up, padding=pads, gain=up**2, **fir)
    if down > 1 and up == 1:
        return _conv(upfirdn2d(x, padding=pads, **fir), w, stride=down, groups=groups, flip_weight=flip_weight)
    if up > 1:
        return _up_conv(x, w, up, down, pads, groups, flip_weight, fir)
    if pads[0] == pads[1] >= 0 and pads[2] == pads[3] >= 0:
        return _conv(x, w, padding=(pads[2], pads[0]), groups=groups, flip_weight=flip_weight)
    return _conv(upfirdn2d(x, None, padding=pads), w, groups=groups, flip_weight=flip_weight)


def _check_arguments(x: torch.Tensor, w: torch.Tensor, up: int, down: int, groups: int) -> None:
    """Raise ValueError unless the arguments belong together."""
    if x.ndim != 4:
        raise ValueError(f"Expected argument `x` to be of shape [N, I, H, W], but got {list(x.shape)}")
    for name, value in (("up", up), ("down", down), ("groups", groups)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected argument `{name}` to be an integer of at least 1, but got {value}")
    if w.ndim != 4 or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups != 0:
        raise ValueError(
            f"Expected argument `w` to be of shape [O, I // groups, kh, kw] for I = {x.shape[1]} and"
            f" groups = {groups}, but got {list(w.shape)}"
        )
    if w.dtype != x.dtype:
        raise ValueError(f"Expected argument `w` to be of x's dtype, {x.dtype}, but got {w.dtype}")


def _total_padding(
    padding: int | list[int], taps: tuple[int, int], up: int, down: int
) -> tuple[int, int, int, int]:
    """The caller's padding plus what keeps the resampled image centred."""
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = taps
    if up > 1:
        px0, px1 = px0 + (fw + up - 1) // 2, px1 + (fw - up) // 2
        py0, py1 = py0 + (fh + up - 1) // 2, py1 + (fh - up) // 2
    if down > 1:
        px0, px1 = px0 + (fw - down + 1) // 2, px1 + (fw - down) // 2
        py0, py1 = py0 + (fh - down + 1) // 2, py1 + (fh - down) // 2
    return px0, px1, py0, py1


def _conv(x, w, stride=1, padding=(0, 0), groups=1, flip_weight=True):
    """Correlation (flip_weight) or convolution of x with w."""
    if not flip_weight and w.shape[2:] != (1, 1):
        w = w.flip([2, 3])
    return conv2d_gradfix.conv2d(x, w, stride=stride, padding=padding, groups=groups)


def _up_conv(x, w, up, down, pads, groups, flip_weight, fir):
    """Transposed convolution on the small image, then the filter on the large one."""
    out_channels, group_in, kh, kw = w.shape
    # [O, I/g, kh, kw] -> [I, O/g, kh, kw]; a transposed convolution applies its kernel flipped.
    w = w.reshape(groups, out_channels // groups, group_in, kh, kw).transpose(1, 2)
    w = w.reshape(groups * group_in, out_channels // groups, kh, kw)
    if flip_weight:
        w = w.flip([2, 3])
    px0, px1 = pads[0] - (kw - 1), pads[1] - (kw - up)
    py0, py1 = pads[2] - (kh - 1), pads[3] - (kh - up)
    cut_x, cut_y = max(min(-px0, -px1), 0), max(min(-py0, -py1), 0)
    x = conv2d_gradfix.conv_transpose2d(x, w, stride=up, padding=(cut_y, cut_x), groups=groups)
    x = upfirdn2d(x, padding=[px0 + cut_x, px1 + cut_x, py0 + cut_y, py1 + cut_y], gain=up**2, **fir)
    return upfirdn2d(x, down=down, **fir) if down > 1 else x
