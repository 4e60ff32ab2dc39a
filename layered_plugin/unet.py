"""UNet: picture to mask. The network of the distilled segmenter and of the judge, and how it is fitted."""

import torch
from torch import nn
from torch.nn import functional as F

from layered_plugin.device import fast_half


class UNet(nn.Module):
    """U-Net with three resolutions: picture -> mask logits."""

    def __init__(
        self,
        channels: tuple[int, int, int] = (24, 48, 96),  # Feature maps at full, half and quarter resolution.
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        full, half, quarter = self.channels
        self.down0 = _two_convs(3, full)
        self.down1 = _two_convs(full, half)
        self.middle = _two_convs(half, quarter)
        self.up1 = _two_convs(quarter + half, half)
        self.up0 = _two_convs(half + full, full)
        self.out = nn.Conv2d(full, 1, 1)

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        """Find the object.

        Args:
            img: Pictures, [N, 3, H, W], in [-1, 1]; sides divisible by 4.

        Returns:
            Logits of the object, [N, 1, H, W]; object where positive.

        Raises:
            ValueError: If the shape is another.
        """
        if img.ndim != 4 or img.shape[1] != 3 or img.shape[2] % 4 or img.shape[3] % 4:
            raise ValueError(
                f"Expected argument `img` to be [N, 3, H, W] with H and W divisible by 4, but got {list(img.shape)}"
            )
        x0 = self.down0(img)  # [N, full, H, W]
        x1 = self.down1(F.max_pool2d(x0, 2))  # [N, half, H/2, W/2]
        x = self.middle(F.max_pool2d(x1, 2))  # [N, quarter, H/4, W/4]
        x = self.up1(torch.cat([F.interpolate(x, scale_factor=2), x1], dim=1))
        x = self.up0(torch.cat([F.interpolate(x, scale_factor=2), x0], dim=1))
        return self.out(x)


def make_unet(channels: tuple[int, int, int] = (24, 48, 96), seed: int | None = None) -> UNet:
    """A U-Net in the memory layout that is fastest, with weights from a seed of its own if one is given."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # The CPU's alone: only that is put back.
        return UNet(channels).to(memory_format=torch.channels_last)


class Fitting:
    """Fit a U-Net to masks by binary cross-entropy: AdamW, one cycle of the learning rate.

    Args:
        unet: Network, on its device.
        steps: Length of the cycle; `step` may be called so many times.
        lr: Largest learning rate.
    """

    def __init__(self, unet: UNet, steps: int, lr: float = 3e-3):
        self.unet = unet
        self.optimizer = torch.optim.AdamW(unet.parameters(), lr=lr, weight_decay=1e-4, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR
        # OneCycleLR divides by zero where the rise ends with the first step.
        rise = max(0.1, 1.5 / max(steps, 2))
        self.schedule = cycle(self.optimizer, lr, total_steps=steps, pct_start=rise) if steps > 1 else None
        unet.train()

    def step(self, img: torch.Tensor, target: torch.Tensor) -> float:
        """Take one step.

        Args:
            img: Pictures, [N, 3, H, W], in [-1, 1].
            target: Masks, [N, 1, H, W], in [0, 1].

        Returns:
            The loss before the step.
        """
        device = next(self.unet.parameters()).device
        img = img.to(device).contiguous(memory_format=torch.channels_last)
        with fast_half(device):
            logits = self.unet(img)
        loss = F.binary_cross_entropy_with_logits(logits.float(), target.to(device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return loss.item()


def _two_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        # The normalisation that follows makes a bias pointless.
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
        ]
    return nn.Sequential(*layers)
