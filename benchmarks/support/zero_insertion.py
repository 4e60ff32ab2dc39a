"""Layers written as upstream's documented formulas say, without any of the bundled base's short cuts.

Zero insertion, padding and a full convolution for every resampling; separate passes for bias, activation and gain;
modulation by scaling, per-sample kernels for demodulation (training mode, not fused); NCHW, fp32. This is our own
code, made from the formulas: the nearest thing to the official base's CPU path that can be measured without the
official base. It is not the official code, and its speed is not that of the official code.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from training import networks

HALF_POWER = math.sqrt(0.5)


def upfirdn(x: Tensor, taps: Tensor, up: int = 1, down: int = 1, pads: tuple[int, ...] = (0, 0, 0, 0),
            gain: float = 1) -> Tensor:
    """Insert zeros, pad, convolve each channel, keep every down-th pixel; taps [k, k], pads of x, then of y."""
    num, channels, height, width = x.shape
    if up > 1:
        x = F.pad(x.reshape(num, channels, height, 1, width, 1), [0, up - 1, 0, 0, 0, up - 1])
        x = x.reshape(num, channels, height * up, width * up)
    x = F.pad(x, pads)
    kernel = (taps * gain).flip([0, 1]).expand(channels, 1, -1, -1)
    return F.conv2d(x, kernel, groups=channels)[:, :, ::down, ::down]


def resampled_conv(x: Tensor, weight: Tensor, taps: Tensor, up: int = 1, down: int = 1) -> Tensor:
    """Convolution in the documented order of convolution and filter, for the 4-tap filter and factor 2."""
    kernel_size = weight.shape[2]
    if kernel_size == 1 and down > 1:
        return F.conv2d(upfirdn(x, taps, down=down, pads=(1, 1, 1, 1)), weight)
    if down > 1:
        return F.conv2d(upfirdn(x, taps, pads=(2, 2, 2, 2)), weight, stride=down)
    if up > 1:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=up)
        return upfirdn(x, taps, pads=(1, 1, 1, 1), gain=up**2)
    return F.conv2d(x, weight, padding=kernel_size // 2)


def bias_act(x: Tensor, bias: Tensor | None, act: str, gain: float = 1) -> Tensor:
    """One pass each: add the bias, activate, multiply by the gain."""
    if bias is not None:
        x = x + bias.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])
    if act == "lrelu":
        x = F.leaky_relu(x, 0.2)
    return x * gain if gain != 1 else x


def fully_connected(self, x: Tensor) -> Tensor:
    """``FullyConnectedLayer.forward``."""
    x = x @ (self.weight * self.weight_gain).t()
    bias = None if self.bias is None else self.bias * self.bias_gain
    return bias_act(x, bias, self.activation, math.sqrt(2) if self.activation == "lrelu" else 1)


def conv_layer(self, x: Tensor, gain: float = 1) -> Tensor:
    """``Conv2dLayer.forward``."""
    x = resampled_conv(x, self.weight * self.weight_gain, self.resample_filter, up=self.up, down=self.down)
    return bias_act(x, self.bias, self.activation, self.act_gain * gain)


def synthesis_layer(self, x: Tensor, w: Tensor, noise_mode: str = "random", fused_modconv: bool = False,
                    gain: float = 1) -> Tensor:
    """``SynthesisLayer.forward``, with fresh noise or the stored one."""
    del fused_modconv  # Training mode: not fused.
    styles = self.affine(w)
    kernels = self.weight[None] * styles[:, None, :, None, None]  # [N, O, I, k, k]
    demod = (kernels.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt()
    noise = self.noise_const if noise_mode == "const" else torch.randn([len(x), 1, self.resolution, self.resolution])
    x = resampled_conv(x * styles[:, :, None, None], self.weight, self.resample_filter, up=self.up)
    x = torch.addcmul(noise * self.noise_strength, x, demod[:, :, None, None])
    return bias_act(x, self.bias, self.activation, self.act_gain * gain)


def torgb_layer(self, x: Tensor, w: Tensor, fused_modconv: bool = False) -> Tensor:
    """``ToRGBLayer.forward``."""
    del fused_modconv
    styles = self.affine(w) * self.weight_gain
    return bias_act(F.conv2d(x * styles[:, :, None, None], self.weight), self.bias, "linear")


def synthesis_block(self, x: Tensor | None, img: Tensor | None, ws: Tensor, force_fp32: bool = False,
                    fused_modconv: bool = False, **layer_kwargs: Any) -> tuple[Tensor, Tensor]:
    """``SynthesisBlock.forward`` of the 'skip' architecture."""
    del force_fp32, fused_modconv
    if x is None:
        x = self.conv1(self.const[None].repeat(len(ws), 1, 1, 1), ws[:, 0], **layer_kwargs)
    else:
        x = self.conv1(self.conv0(x, ws[:, 0], **layer_kwargs), ws[:, 1], **layer_kwargs)
    rgb = self.torgb(x, ws[:, -1])
    if img is not None:
        rgb = upfirdn(img, self.resample_filter, up=2, pads=(2, 1, 2, 1), gain=4) + rgb
    return x, rgb


def discriminator_block(self, x: Tensor | None, img: Tensor | None,
                        force_fp32: bool = False) -> tuple[Tensor, None]:
    """``DiscriminatorBlock.forward`` of the 'resnet' architecture."""
    del force_fp32
    if x is None:
        x = self.fromrgb(img)
    return self.skip(x, gain=HALF_POWER) + self.conv1(self.conv0(x), gain=HALF_POWER), None


FORWARDS = dict(FullyConnectedLayer=fully_connected, Conv2dLayer=conv_layer, SynthesisLayer=synthesis_layer,
                ToRGBLayer=torgb_layer, SynthesisBlock=synthesis_block, DiscriminatorBlock=discriminator_block)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """While it lasts, the base's networks, in fp32 and of the default architectures, compute by these formulas."""
    with contextlib.ExitStack() as stack:
        for name, forward in FORWARDS.items():
            stack.enter_context(mock.patch.object(getattr(networks, name), "forward", forward))
        yield
