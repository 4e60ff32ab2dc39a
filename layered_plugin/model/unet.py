"""U-Nets: picture to masks. FastUNet is the distilled segmenter's, UNet the judge's."""

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from layered_plugin.device import seeded_cpu


class UNet(nn.Module):
    """U-Net with three resolutions: picture -> mask logits, of the object or of each of several."""

    def __init__(
        self,
        channels: tuple[int, int, int] = (24, 48, 96),  # Feature maps at full, half and quarter resolution.
        num_objects: int = 1,  # Masks K; the order of several objects means nothing.
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        full, half, quarter = self.channels
        self.down0 = _convs(3, full, full)
        self.down1 = _convs(full, half, half)
        self.middle = _convs(half, quarter, quarter)
        self.up1 = _convs(quarter + half, half, half)
        self.up0 = _convs(half + full, full, full)
        self.out = nn.Conv2d(full, num_objects, 1)

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        """Find the objects.

        Args:
            img: Pictures, [N, 3, H, W], in [-1, 1]; sides divisible by 4.

        Returns:
            Logits of each object, [N, K, H, W]; object where positive.

        Raises:
            ValueError: If the shape is another.
        """
        _check_sides(img, 4)
        x0 = self.down0(img)  # [N, full, H, W]
        x1 = self.down1(F.max_pool2d(x0, 2))  # [N, half, H/2, W/2]
        x = self.middle(F.max_pool2d(x1, 2))  # [N, quarter, H/4, W/4]
        x = self.up1(torch.cat([F.interpolate(x, scale_factor=2), x1], dim=1))
        x = self.up0(torch.cat([F.interpolate(x, scale_factor=2), x0], dim=1))
        return self.out(x)


class FastUNet(nn.Module):
    """U-Net with next to no work at the full resolution: picture -> mask logits.

    At full resolution there is one convolution on the way down, one on the way up; between them and the half one goes
    a rearrangement of pixels into channels and back. Of the same width there, `UNet` spends two thirds of its time.
    What levels below the eighth resolution find is added to it, so that large pictures are seen as a whole too.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int] = (16, 32, 64, 128),  # Feature maps from full to eighth resolution.
        num_objects: int = 1,  # Masks K; the order of several objects means nothing.
        deep: int = 0,  # Levels below the eighth resolution, as wide as that.
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        full, half, quarter, eighth = self.channels
        self.down0 = _convs(3, full)
        self.down1 = _convs(4 * full, half, half)
        self.down2 = _convs(half, quarter, quarter)
        self.middle = _convs(quarter, eighth, eighth)
        self.deep = nn.ModuleList(_convs(eighth, eighth, eighth) for _ in range(deep))
        self.lift2 = nn.Conv2d(eighth, quarter, 1)
        self.up2 = _convs(2 * quarter, quarter)
        self.lift1 = nn.Conv2d(quarter, half, 1)
        self.up1 = _convs(2 * half, half)
        self.lift0 = nn.Conv2d(half, 4 * full, 1)
        self.up0 = _convs(2 * full, full)
        self.out = nn.Conv2d(full, num_objects, 1)

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        """Find the objects; as in `UNet`, with sides divisible by 8, twice that for each level below."""
        _check_sides(img, 8 * 2 ** len(self.deep))
        x0 = self.down0(img)  # [N, full, H, W]
        x1 = self.down1(F.pixel_unshuffle(x0, 2))  # [N, half, H/2, W/2]
        x2 = self.down2(F.max_pool2d(x1, 2))  # [N, quarter, H/4, W/4]
        levels = [self.middle(F.max_pool2d(x2, 2))]  # [N, eighth, H/8, W/8]
        for layers in self.deep:
            levels.append(layers(F.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        while levels:
            x = levels.pop() + F.interpolate(x, scale_factor=2)
        x = self.up2(torch.cat([F.interpolate(self.lift2(x), scale_factor=2), x2], dim=1))
        x = self.up1(torch.cat([F.interpolate(self.lift1(x), scale_factor=2), x1], dim=1))
        x = self.up0(torch.cat([F.pixel_shuffle(self.lift0(x), 2), x0], dim=1))
        return self.out(x)


AnyUNet = UNet | FastUNet


def make_unet(channels: Sequence[int] = (24, 48, 96), seed: int | None = None, num_objects: int = 1,
              deep: int = 0) -> AnyUNet:
    """A U-Net in the memory layout that is fastest.

    Args:
        channels: Three numbers for a `UNet`, four for a `FastUNet`.
        seed: Of its weights, from a generator of their own; None = from torch's.
        num_objects: Number of masks.
        deep: Further levels of a `FastUNet`.

    Raises:
        ValueError: There are neither three nor four numbers, or three and further levels.
    """
    if len(channels) not in (3, 4):
        raise ValueError(f"Expected argument `channels` to hold 3 or 4 numbers, but got {list(channels)}")
    if len(channels) == 3 and deep > 0:
        raise ValueError(f"Expected argument `deep` to be 0 with 3 channels, but got {deep}")
    with contextlib.nullcontext() if seed is None else seeded_cpu(seed):
        numbers: Any = tuple(channels)
        net: AnyUNet = UNet(numbers, num_objects) if len(numbers) == 3 else FastUNet(numbers, num_objects, deep)
        return net.to(memory_format=torch.channels_last)


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """Copy of a network in evaluation mode whose convolutions do the work of the normalisations behind them."""
    net = copy.deepcopy(net).eval()
    for stage in net.modules():
        if isinstance(stage, nn.Sequential):
            for idx in range(len(stage) - 1):
                conv, norm = stage[idx], stage[idx + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    stage[idx], stage[idx + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return net.to(memory_format=torch.channels_last)


def _convs(in_channels: int, *out_channels: int) -> nn.Sequential:
    """One 3x3 convolution after the other, each with normalisation and ReLU."""
    layers: list[nn.Module] = []
    for channels, following in zip((in_channels, *out_channels), out_channels, strict=False):
        # The normalisation that follows makes a bias pointless.
        layers += [nn.Conv2d(channels, following, 3, padding=1, bias=False), nn.BatchNorm2d(following), nn.ReLU()]
    return nn.Sequential(*layers)


def _check_sides(img: torch.Tensor, factor: int) -> None:
    if img.ndim != 4 or img.shape[1] != 3 or img.shape[2] % factor or img.shape[3] % factor:
        raise ValueError(f"Expected argument `img` to be [N, 3, H, W] with H and W divisible by {factor}, "
                         f"but got {list(img.shape)}")
