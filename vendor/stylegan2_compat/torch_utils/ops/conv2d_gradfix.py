"""Convolutions whose weight gradients can be switched off for a while.

The module flags are part of the interface of the base; both values run PyTorch's own convolutions."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F

enabled = False  # Set by the training loop.
weight_gradients_disabled = False  # True inside no_weight_gradients().

_IntPair = int | tuple[int, int] | list[int]


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Declare that gradients by convolution weights are not needed inside the block.

    The caller asks torch.autograd.grad for input gradients only, so PyTorch leaves the weight gradients out
    by itself; the flag is for implementations that cannot tell. It is restored after an exception too.
    """
    global weight_gradients_disabled
    before = weight_gradients_disabled
    weight_gradients_disabled = True
    try:
        yield
    finally:
        weight_gradients_disabled = before


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: _IntPair = 1,
    padding: _IntPair = 0,
    dilation: _IntPair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Two-dimensional correlation, as torch.nn.functional.conv2d.

    Args:
        input: [N, I, H, W].
        weight: [O, I // groups, kh, kw].
        bias: [O]; None = no bias.
        stride: Step, in pixels.
        padding: Zeros on each side, in pixels.
        dilation: Distance of taps, in pixels.
        groups: Number of independent channel groups.

    Returns:
        [N, O, OH, OW]; differentiable to any order.
    """
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: _IntPair = 1,
    padding: _IntPair = 0,
    output_padding: _IntPair = 0,
    groups: int = 1,
    dilation: _IntPair = 1,
) -> torch.Tensor:
    """Transpose of conv2d, as torch.nn.functional.conv_transpose2d.

    Args:
        input: [N, I, H, W].
        weight: [I, O // groups, kh, kw].
        bias: [O]; None = no bias.
        stride: Step of the corresponding conv2d, in pixels.
        padding: Pixels cut off on each side.
        output_padding: Pixels added after the last, below the stride.
        groups: Number of independent channel groups.
        dilation: Distance of taps, in pixels.

    Returns:
        [N, O, OH, OW]; differentiable to any order.
    """
    return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
