"""The judge: a U-Net that learnt from true masks, and stands in for the paper's Mask R-CNN."""

import math
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch

from layered_plugin.data.masks import OBJECT_LEVEL
from layered_plugin.data.pictures import CROP_RATIO, to_float
from layered_plugin.errors import PictureError, TeacherError, UserError, one_line
from layered_plugin.evaluation.metrics import MaskEvaluation
from layered_plugin.evaluation.teachers import none_if_empty, resized
from layered_plugin.model.unet import AnyUNet, make_unet
from layered_plugin.progress import progress
from layered_plugin.segmentation.augment import disturb
from layered_plugin.segmentation.fitting import Fitting
from layered_plugin.tensor_files import save_state


class SavedJudge(NamedTuple):
    """A judge as a file has it.

    Fields:
        unet: In evaluation mode.
        size_px: Side of the pictures that it was trained on; None in files that were written before they said it.
    """

    unet: AnyUNet
    size_px: int | None


def train_judge(pictures: np.ndarray, masks: np.ndarray, *, steps: int = 1200, batch: int = 32, seed: int = 0,
                device: torch.device | str = "cpu") -> AnyUNet:
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
        PictureError: Pictures or masks have another shape or type.
        ValueError: A number is out of range.
    """
    check_pairs(pictures, masks)
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
        if not math.isfinite(fitting.step(disturb(img, generator), target)):
            raise UserError("the judge's loss is not finite; start anew with another `seed`")
    return judge.eval()


def check_pairs(pictures: np.ndarray, masks: np.ndarray) -> None:
    """See that a judge can learn from these; arguments and errors as ``train_judge``."""
    square = pictures.ndim == 4 and pictures.shape[1:] == (3, pictures.shape[-1], pictures.shape[-1])
    if pictures.dtype != np.uint8 or not square or crop_side(pictures.shape[-1]) < 4:
        raise PictureError("pictures must be uint8 [N, 3, S, S] with S at least 5, "
                           f"but got {pictures.dtype} {list(pictures.shape)}")
    whole = masks.ndim in (3, 4) and masks.shape == (len(pictures), *masks.shape[1:-2], *pictures.shape[2:])
    if masks.dtype != np.uint8 or not whole or 0 in masks.shape:
        raise PictureError(f"masks must be uint8 {[len(pictures), *pictures.shape[2:]]}, with K objects of each "
                           f"picture at second place if there are several, but got {masks.dtype} {list(masks.shape)}")


def crop_side(size: int) -> int:
    """Side of the crops trained on, for stored pictures of the given side: size / 1.125, a multiple of 4."""
    return int(size / CROP_RATIO) // 4 * 4


def center_crop(values: torch.Tensor, side: int) -> torch.Tensor:
    """Cut the middle [..., side, side] out of [..., S, S]."""
    top, left = (values.shape[-2] - side) // 2, (values.shape[-1] - side) // 2
    return values[..., top:top + side, left:left + side]


def random_crop_flip(img: torch.Tensor, target: torch.Tensor, side: int,
                     generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the same random square out of each picture and its mask and mirror both with probability 1/2.

    [N, 3, S, S] and [N, K, S, S] become [N, 3, side, side] and [N, K, side, side]; the side is at most S.
    """
    num, _, size, _ = img.shape
    stacked = torch.cat([img, target], dim=1)
    places = torch.randint(size - side + 1, (num, 2), generator=generator).tolist()
    mirrored = (torch.rand(num, generator=generator) < 0.5).tolist()
    crops = []
    for picture, (top, left), mirror in zip(stacked, places, mirrored, strict=True):
        crop = picture[:, top:top + side, left:left + side]
        crops.append(crop.flip(2) if mirror else crop)
    stacked = torch.stack(crops)
    return stacked[:, :3], stacked[:, 3:]


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
    masks = [judge(part.to(device)) > 0 for part in img.split(batch)]
    judge.train(was_training)
    return torch.cat(masks)


def judge_masks(judge: AnyUNet, img: torch.Tensor) -> torch.Tensor:
    """Ask the judge for object pixels, of any object; as ``judge_objects``, but [N, H, W]."""
    return judge_objects(judge, img).any(dim=1)


def score_judge(judge: AnyUNet, pictures: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
    """Scores of a judge on pictures with true masks, in the middle of each as in training.

    Args:
        judge: A trained judge.
        pictures: [N, 3, S, S], uint8.
        masks: Opacities, [N, S, S], uint8; half covered counts as object.

    Returns:
        `size_px`, the side of the middle; `mean_iou`, `pooled_iou`, `pixel_accuracy`, `full_mask_iou`,
        `pred_coverage`, `target_coverage` and `inverted`, as of ``MaskEvaluation``.
    """
    side = crop_side(pictures.shape[-1])
    pred = judge_masks(judge, center_crop(to_float(torch.from_numpy(pictures)), side)).cpu()
    target = center_crop(torch.from_numpy(masks), side) >= OBJECT_LEVEL
    evaluation = MaskEvaluation()
    for one_pred, one_target in zip(pred.numpy(), target.numpy(), strict=True):
        evaluation.add(one_pred, one_target)
    scores = evaluation.result(bootstrap=1)
    names = ("pooled_iou", "pixel_accuracy", "full_mask_iou", "pred_coverage", "target_coverage", "inverted")
    return dict(size_px=side, mean_iou=scores["iou"], **{name: scores[name] for name in names})


def save_judge(judge: AnyUNet, dest: str | os.PathLike[str], size_px: int) -> None:
    """Write a judge's weights and the side of its pictures, whole or not at all; the folder is made if missing."""
    dest = Path(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    save_state(dest, {"channels": list(judge.channels), "size_px": size_px, "weights": judge.state_dict()})


def load_judge(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> SavedJudge:
    """The judge of a file of `save_judge`; runs no code. ValueError names another file."""
    saved = torch.load(path, map_location=device, weights_only=True)
    fields = set(saved) - {"size_px"} if isinstance(saved, dict) else set()
    if fields != {"channels", "weights"} or "out.bias" not in saved["weights"]:
        raise ValueError(f"{path}: holds no judge")
    judge = make_unet(tuple(saved["channels"]), num_objects=len(saved["weights"]["out.bias"]))
    judge.load_state_dict(saved["weights"])
    return SavedJudge(judge.to(device).eval(), saved.get("size_px"))


class UNetTeacher:
    """The judge of ``eval.py judge``: a U-Net that learnt from true masks.

    Args:
        path: File of ``save_judge``.
        size_px: Side of the square that it is shown, a multiple of 4; larger or smaller pictures are resized to it
            and their masks back. None = that of the pictures that it was trained on: it knows no other scale.
        device: Where it runs.

    Raises:
        TeacherError: The file is missing, damaged, no judge, or of no known size where none is given.
        ValueError: The side is no positive multiple of 4.
    """

    def __init__(self, path: str | os.PathLike[str], size_px: int | None = None,
                 device: torch.device | str = "cpu") -> None:
        if size_px is not None and (size_px < 4 or size_px % 4):
            raise ValueError(f"Expected argument `size_px` to be a positive multiple of 4, but got {size_px}")
        try:
            self._judge, own_size = load_judge(path, device)
        except FileNotFoundError as err:
            raise TeacherError(f"{path}: no such file") from err
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as err:
            reason = one_line(err, 200).removeprefix(f"{path}: ")
            raise TeacherError(f"{path}: no judge of eval.py judge: {reason}") from err
        size_px = size_px or own_size
        if size_px is None:
            raise TeacherError(f"{path}: does not say how large the pictures were that it was trained on, as judges of "
                               "today do; make it anew with eval.py judge, or give --detector-size")
        self.size_px = size_px

    def __call__(self, images: list[np.ndarray], names: list[str]) -> list[np.ndarray | None]:
        """See ``Teacher``."""
        pixels = [np.asarray(resized(PIL.Image.fromarray(image), (self.size_px, self.size_px))) for image in images]
        img = to_float(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))  # [N, 3, S, S]
        squares: np.ndarray = judge_masks(self._judge, img).cpu().numpy().astype(np.uint8) * 255
        masks = [np.asarray(resized(PIL.Image.fromarray(mask), (image.shape[1], image.shape[0])))
                 for mask, image in zip(squares, images, strict=True)]
        return [none_if_empty(mask >= OBJECT_LEVEL) for mask in masks]
