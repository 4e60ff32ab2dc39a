"""Judge: a small U-Net trained on true masks, to say where the object is in a generated picture.

A generator's own masks have no truth to compare with; the judge's opinion stands in for it (our addition to the paper).
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from layered_plugin.judge_pictures import crop_side, disturb, random_crop_flip, to_unit
from layered_plugin.progress import progress

LEARNING_RATE = 3e-3


class Judge(nn.Module):
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


def train_judge(
    pictures: np.ndarray,
    masks: np.ndarray,
    *,
    steps: int = 1200,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Judge:
    """Train a judge on pictures with true masks.

    Args:
        pictures: [N, 3, S, S], uint8.
        masks: Opacities, [N, S, S], uint8, 255 = object.
        steps: Number of optimizer steps.
        batch: Pictures a step.
        seed: Seed of weights, picture order and augmentation; the global generator is left alone.
        device: Where to train.

    Returns:
        The judge in evaluation mode, for pictures of side S / 1.125 rounded down to a multiple of 4.

    Raises:
        ValueError: If an argument has another shape, type or range.
    """
    _check_pairs(pictures, masks)
    for name, value in (("steps", steps), ("batch", batch)):
        if value < 1:
            raise ValueError(f"Expected argument `{name}` to be at least 1, but got {value}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge().to(device).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1) \
        if steps > 1 else None
    crop = crop_side(pictures.shape[-1])
    judge.train()
    for _ in progress(range(steps), steps, "judge"):
        chosen = torch.randint(len(pictures), (batch,), generator=generator).numpy()
        img, target = to_unit(pictures[chosen]), torch.from_numpy(masks[chosen]).unsqueeze(1) / 255.0
        img, target = random_crop_flip(img, target, crop, generator)
        img = disturb(img, generator).to(device).contiguous(memory_format=torch.channels_last)
        loss = F.binary_cross_entropy_with_logits(judge(img), target.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return judge.eval()


@torch.no_grad()
def judge_masks(judge: Judge, img: torch.Tensor, batch: int = 250) -> torch.Tensor:
    """Ask the judge for object pixels.

    Args:
        judge: A trained judge; it is asked in evaluation mode and left in its own.
        img: Pictures, [N, 3, H, W], float, in [-1, 1].
        batch: Pictures at a time; the result does not depend on it.

    Returns:
        [N, H, W], bool, on the judge's device.
    """
    was_training = judge.training
    judge.eval()
    device = next(judge.parameters()).device
    found = [judge(part.to(device)).squeeze(1) > 0 for part in img.split(batch)]
    judge.train(was_training)
    return torch.cat(found)


def save_judge(judge: Judge, dest: str | os.PathLike[str]) -> None:
    """Write a judge's weights; the file appears under its name only when complete.

    Args:
        judge: The judge.
        dest: Path; its folder is made if missing.
    """
    dest = Path(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial = dest.with_name(f".{dest.name}.{os.getpid()}.part")
    try:
        torch.save({"channels": list(judge.channels), "weights": judge.state_dict()}, partial)
        os.replace(partial, dest)
    finally:
        partial.unlink(missing_ok=True)


def load_judge(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Judge:
    """Read a judge in evaluation mode; no code from the file is run.

    Args:
        path: File of `save_judge`.
        device: Where to put it.

    Returns:
        The judge.

    Raises:
        ValueError: If the file holds something else; the text names it.
    """
    saved = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(saved, dict) or set(saved) != {"channels", "weights"}:
        raise ValueError(f"{path}: holds no judge")
    judge = Judge(tuple(saved["channels"]))
    judge.load_state_dict(saved["weights"])
    # The layout of training, so that a loaded judge rounds as the trained one did.
    return judge.to(device).to(memory_format=torch.channels_last).eval()


def _two_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        # The normalisation that follows makes a bias pointless.
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
        ]
    return nn.Sequential(*layers)


def _check_pairs(pictures: np.ndarray, masks: np.ndarray) -> None:
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3 or crop_side(pictures.shape[-1]) < 4:
        raise ValueError(
            "Expected argument `pictures` to be uint8 [N, 3, S, S] with S at least 5, "
            f"but got {pictures.dtype} {list(pictures.shape)}"
        )
    if masks.dtype != np.uint8 or masks.shape != (len(pictures), *pictures.shape[2:]):
        raise ValueError(
            f"Expected argument `masks` to be uint8 {[len(pictures), *pictures.shape[2:]]}, "
            f"but got {masks.dtype} {list(masks.shape)}"
        )
