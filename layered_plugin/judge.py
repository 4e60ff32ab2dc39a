"""Judge: a small U-Net trained on true masks, to say where the objects are in a generated picture.

A generator's own masks have no truth to compare with; the judge's opinion stands in for it (our addition to the paper).
"""

import os
from pathlib import Path

import numpy as np
import torch

from layered_plugin.checkpoint import atomic_write
from layered_plugin.dataset import to_float
from layered_plugin.pair_augment import crop_side, disturb, random_crop_flip
from layered_plugin.progress import progress
from layered_plugin.unet import AnyUNet, Fitting, make_unet


def train_judge(
    pictures: np.ndarray,
    masks: np.ndarray,
    *,
    steps: int = 1200,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> AnyUNet:
    """Train a judge on pictures with true masks.

    Args:
        pictures: [N, 3, S, S], uint8.
        masks: Opacities, [N, S, S], uint8, 255 = object; or [N, K, S, S] to tell K objects apart.
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
    masks = masks.reshape(len(masks), -1, *masks.shape[-2:])  # [N, K, S, S]
    judge = make_unet(seed=seed, num_objects=masks.shape[1]).to(device)
    generator = torch.Generator().manual_seed(seed)
    fitting = Fitting(judge, steps)
    crop = crop_side(pictures.shape[-1])
    for _ in progress(range(steps), steps, "judge"):
        chosen = torch.randint(len(pictures), (batch,), generator=generator).numpy()
        img, target = to_float(torch.from_numpy(pictures[chosen])), torch.from_numpy(masks[chosen]) / 255.0
        img, target = random_crop_flip(img, target, crop, generator)
        fitting.step(disturb(img, generator), target)
    return judge.eval()


@torch.no_grad()
def judge_objects(judge: AnyUNet, img: torch.Tensor, batch: int = 250) -> torch.Tensor:
    """Ask the judge for the pixels of each object.

    Args:
        judge: A trained judge of K objects; it is asked in evaluation mode and left in its own.
        img: Pictures, [N, 3, H, W], float, in [-1, 1].
        batch: Pictures at a time; the result does not depend on it.

    Returns:
        [N, K, H, W], bool, on the judge's device; the order of several objects means nothing.
    """
    was_training = judge.training
    judge.eval()
    device = next(judge.parameters()).device
    found = [judge(part.to(device)) > 0 for part in img.split(batch)]
    judge.train(was_training)
    return torch.cat(found)


def judge_masks(judge: AnyUNet, img: torch.Tensor, batch: int = 250) -> torch.Tensor:
    """Ask the judge for object pixels, of any object; as ``judge_objects``, but [N, H, W]."""
    return judge_objects(judge, img, batch).any(dim=1)


def save_judge(judge: AnyUNet, dest: str | os.PathLike[str]) -> None:
    """Write a judge's weights; the file appears under its name only when complete.

    Args:
        judge: The judge.
        dest: Path; its folder is made if missing.
    """
    dest = Path(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(dest) as file:
        torch.save({"channels": list(judge.channels), "weights": judge.state_dict()}, file)


def load_judge(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> AnyUNet:
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
    if not isinstance(saved, dict) or set(saved) != {"channels", "weights"} or "out.bias" not in saved["weights"]:
        raise ValueError(f"{path}: holds no judge")
    judge = make_unet(tuple(saved["channels"]), num_objects=len(saved["weights"]["out.bias"]))
    judge.load_state_dict(saved["weights"])
    return judge.to(device).eval()


def _check_pairs(pictures: np.ndarray, masks: np.ndarray) -> None:
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3 or crop_side(pictures.shape[-1]) < 4:
        raise ValueError(
            "Expected argument `pictures` to be uint8 [N, 3, S, S] with S at least 5, "
            f"but got {pictures.dtype} {list(pictures.shape)}"
        )
    whole = masks.ndim in (3, 4) and masks.shape == (len(pictures), *masks.shape[1:-2], *pictures.shape[2:])
    if masks.dtype != np.uint8 or not whole or 0 in masks.shape:
        raise ValueError(
            f"Expected argument `masks` to be uint8 {[len(pictures), *pictures.shape[2:]]}, with K objects of each "
            f"picture at second place if there are several, but got {masks.dtype} {list(masks.shape)}"
        )
