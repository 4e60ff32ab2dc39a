"""How varied generated scenes are beside real pictures: outlines of masks, and whole pictures.

Both sides are compared at the networks' size, real pictures and their masks under the random crops of training.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch.nn import functional as F

from layered_plugin.data.dataset import PictureDataset, crop_by_number
from layered_plugin.data.labels import labels_of_training
from layered_plugin.data.mask_files import MaskFiles
from layered_plugin.data.masks import Ranges
from layered_plugin.data.pictures import CROP_RATIO, PictureSource, to_square
from layered_plugin.errors import PictureError
from layered_plugin.evaluation.teachers import Teacher
from layered_plugin.model.mask_variety import compare_masks
from layered_plugin.model.picture_distance import PictureFeatures, frechet_distance
from layered_plugin.model.scenes import Scenes, collect_scenes

NUM_COMPARED = 2500  # Scenes and real pictures that are compared, at most.
MIN_REAL = 4  # Two in each half.


def real_pictures(path: str | os.PathLike[str], resolution: int, num: int, size_px: int | None = None) -> torch.Tensor:
    """The first real pictures as training shows them, [N, C, H, W], uint8: squeezed, then cropped at random.

    Args:
        path: Folder or zip.
        resolution: Side of the networks' pictures.
        num: Pictures, at most.
        size_px: Side before the crop; None = 1.125 times the resolution.

    Raises:
        PictureError: One can't be read; the text names it.
    """
    pictures = PictureDataset(path, size_px or round(resolution * CROP_RATIO), resolution)
    squares = pictures.read_all(range(min(num, len(pictures))))
    return torch.from_numpy(np.stack([crop_by_number(square, resolution, idx) for idx, square in enumerate(squares)]))


def real_masks(files: MaskFiles, names: Sequence[str], resolution: int, num: int,
               size_px: int | None = None) -> torch.Tensor:
    """True masks of the first real pictures under the same crops as ``real_pictures``, [N, H, W], in [0, 1].

    Args:
        files: The masks.
        names: All pictures of the data set.
        resolution, num, size_px: As for ``real_pictures``.

    Raises:
        MaskError: A mask is missing or can't be read; the text names it.
    """
    side = size_px or round(resolution * CROP_RATIO)
    squares = (to_square(PIL.Image.fromarray(files.opacity(name)), side) for name in names[:num])
    first = np.stack([crop_by_number(square, resolution, number)[0] for number, square in enumerate(squares)])
    return torch.from_numpy(first).float() / 255


def masks_by(teacher: Teacher, pictures: torch.Tensor, size_px: int) -> torch.Tensor:
    """Masks that a teacher sees in pictures.

    Args:
        teacher: What sees the object.
        pictures: [N, 3, H, W], uint8.
        size_px: Side of what it is shown; its masks are reduced, or enlarged, to H x W.

    Returns:
        [N, H, W], in [0, 1]; zero where it sees no object.
    """
    masks = []
    for start in range(0, len(pictures), 100):
        part = pictures[start:start + 100].float()
        if part.shape[2] != size_px:
            part = F.interpolate(part, size=[size_px, size_px], mode="bilinear", antialias=True)
        images = list(part.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
        truths = teacher(images, [f"real picture {start + idx}" for idx in range(len(images))])
        for truth in truths:
            mask = torch.zeros(size_px, size_px) if truth is None else torch.from_numpy(np.asarray(truth, np.float32))
            masks.append(F.interpolate(mask[None, None], size=pictures.shape[2:], mode="area")[0, 0])
    return torch.stack(masks)


def score_variety(scenes: Scenes, pictures: torch.Tensor, masks: torch.Tensor, seed: int = 0) -> dict[str, Any]:
    """Compare scenes with real pictures, beside what real pictures reach among themselves.

    Args:
        scenes: At least 2.
        pictures: Real pictures, [N, C, H, W], uint8, N at least 4.
        masks: Of these pictures, [N, H, W], in [0, 1].
        seed: Of the feature network.

    Returns:
        `shapes`: see ``compare_masks``. `frechet`: distance of the scenes from the second half of the real pictures
        by ``PictureFeatures`` trained on the first; `frechet_floor`: the first half's distance from the second.
    """
    half = len(pictures) // 2
    features = PictureFeatures(pictures[:half], seed=seed)
    real = features(pictures[half:])
    generated, first_half = (features(part[:len(real)]) for part in (scenes.pictures, pictures[:half]))  # Equally many.
    return dict(shapes=compare_masks(scenes.masks, masks), frechet=frechet_distance(generated, real),
                frechet_floor=frechet_distance(first_half, real), num_real=len(pictures))


class Comparison:
    """Real pictures with their masks, ready to be compared with the scenes of several networks.

    Args:
        data: Real pictures, folder or zip.
        masks: Their true masks under the same names, folder or zip; None = a model's or a teacher's.
        model: ``Segmenter`` for their masks, if there are no true ones.
        values: Values of the true masks that are object; None = where it is plain (``mask_opacity``).

    Raises:
        PictureError, MaskError: A file can't be read, or a picture has no mask; the text names it. Or there are fewer
            than ``MIN_REAL`` pictures.
    """

    def __init__(self, data: str, masks: str | None = None, model: Any = None, values: Ranges | None = None) -> None:
        self._data, self._model = data, model
        self._names = PictureSource(data).names
        if len(self._names) < MIN_REAL:
            raise PictureError(f"{data}: holds {len(self._names)} pictures; at least {MIN_REAL} are needed")
        self._masks = None if masks is None else MaskFiles(masks, values)
        if self._masks is not None:
            self._masks.check_names(self._names, data)

    def __call__(self, snapshot: Mapping[str, Any], teacher: Teacher, num: int, seed: int,
                 drawing: Mapping[str, Any]) -> dict[str, Any]:
        """Scores of one network.

        Args:
            snapshot: Of ``load_snapshot``.
            teacher: Sees the masks of the real pictures if nothing else is given.
            num: Scenes; beyond ``NUM_COMPARED`` no more are compared.
            seed: Of the scenes and the features.
            drawing: `size_px` of what the teacher sees, `trunc` and `batch` of the scenes.

        Returns:
            As ``score_variety``, and `data`, `masks`: where the real ones are from.
        """
        G_ema, training_set = snapshot["G_ema"], snapshot.get("training_set_kwargs") or {}
        px, size_px = G_ema.img_resolution, training_set.get("size_px")
        pictures = real_pictures(self._data, px, NUM_COMPARED, size_px)
        if self._masks is not None:
            masks = real_masks(self._masks, self._names, px, NUM_COMPARED, size_px)
            source = str(self._masks.path)
        elif self._model is not None:
            masks, source = self._by_model(pictures), str(self._model.folder)
        else:
            masks, source = masks_by(teacher, pictures, drawing["size_px"] or px), "teacher"
        labels = labels_of_training(training_set, G_ema.c_dim)
        scenes = collect_scenes(G_ema, min(num, NUM_COMPARED), seed, drawing["trunc"], drawing["batch"], labels)
        return dict(score_variety(scenes, pictures, masks, seed), data=self._data, masks=source)

    def _by_model(self, pictures: torch.Tensor) -> torch.Tensor:
        segmented = self._model(list(pictures.permute(0, 2, 3, 1).numpy()))
        return torch.stack([torch.from_numpy(segmentation.mask) for segmentation in segmented])
