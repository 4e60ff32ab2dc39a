"""Teachers: what stands for the truth when masks are scored.

Mask R-CNN as in section 4 of the paper, true masks, or the judge, a U-Net that learnt from true masks (`judge`).
"""

import difflib
import os
import pickle
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import PIL.Image
import torch

from layered_plugin.data.mask_files import MaskFiles
from layered_plugin.data.masks import OBJECT_LEVEL
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import TeacherError

OBJECTS = ("union", "one")


class Teacher(Protocol):
    """Says where the object is."""

    def __call__(self, images: list[np.ndarray], names: list[str]) -> list[np.ndarray | None]:
        """Find the object in some pictures.

        Args:
            images: Pictures, each [H, W, 3], uint8; sizes may differ.
            names: Their names in the data set.

        Returns:
            For each the object's pixels, [H, W], bool; None where there is no object.

        Raises:
            TeacherError: A picture has no usable truth; the text names it.
        """


class MaskTeacher(MaskFiles):
    """True masks of a folder or zip; one without object pixels counts as no object."""

    def __call__(self, images: list[np.ndarray], names: list[str]) -> list[np.ndarray | None]:
        """See ``Teacher``; a mask must have the size of its picture."""
        return [none_if_empty(self.read(name, image.shape[1::-1])) for image, name in zip(images, names, strict=True)]


class AlphaTeacher:
    """The transparency of the pictures themselves: object where they are opaque."""

    def __init__(self, source: PictureSource) -> None:
        self._source = source

    def __call__(self, images: list[np.ndarray], names: list[str]) -> list[np.ndarray | None]:
        """See ``Teacher``."""
        return [self._mask(name) for name in names]

    def _mask(self, name: str) -> np.ndarray | None:
        picture = self._source.open(name)
        if not picture.has_transparency_data:
            raise TeacherError(f"alpha: picture {name} of {self._source.path} has no transparency; give its true masks")
        return none_if_empty(np.asarray(picture.convert("RGBA").getchannel("A")) >= OBJECT_LEVEL)


class MaskRCNNTeacher:
    """Mask R-CNN with ResNet-50 FPN, trained on COCO, as the paper has it (section 4; torchvision's weights).

    Args:
        class_name: Name of the object in COCO, for example "car".
        weights_file: State dict of torchvision's ``maskrcnn_resnet50_fpn``; nothing is ever downloaded.
        score_threshold: Detections of a lower score are dropped.
        objects: "union" = all detected objects of the class, "one" = the one with the most pixels.
        device: Where it runs.

    Raises:
        TeacherError: COCO has no such class, or the file is missing, damaged or of another network.
        ValueError: ``objects`` is something else.
    """

    def __init__(self, class_name: str, weights_file: str | os.PathLike[str] | None, score_threshold: float = 0.5,
                 objects: str = "union", device: torch.device | str = "cpu") -> None:
        if objects not in OBJECTS:
            raise ValueError(f"Expected argument `objects` to be one of {', '.join(OBJECTS)}, but got {objects!r}")
        self.label = coco_label(class_name)
        self.score_threshold, self.objects = score_threshold, objects
        self._device = torch.device(device)
        state = _read_weights(weights_file)
        self._network = make_maskrcnn(score_threshold)
        try:
            self._network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as err:
            raise TeacherError(f"{weights_file}: weights of another network than maskrcnn_resnet50_fpn; the file "
                               f"wanted is {weights_name()}") from err
        self._network.eval().requires_grad_(False).to(self._device)

    @torch.no_grad()
    def __call__(self, images: list[np.ndarray], names: list[str]) -> list[np.ndarray | None]:
        """See ``Teacher``; one picture at a time, so that none is padded to the size of another."""
        inputs = [torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1) for image in images]
        return [self._choose(self._network([img.to(self._device)])[0]) for img in inputs]

    def _choose(self, detections: dict[str, torch.Tensor]) -> np.ndarray | None:
        """Mask of one picture out of labels [K], scores [K] and soft masks [K, 1, H, W]."""
        chosen = (detections["labels"] == self.label) & (detections["scores"] >= self.score_threshold)
        masks = detections["masks"][chosen, 0] >= 0.5  # [K, H, W]
        if self.objects == "one" and len(masks) > 0:
            masks = masks[masks.sum(dim=(1, 2)).argmax()].unsqueeze(0)
        return none_if_empty(masks.any(dim=0).cpu().numpy())


def make_maskrcnn(score_threshold: float) -> torch.nn.Module:
    """The network without weights; detections below the score threshold are not even drawn."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn  # Takes seconds to import.

    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, box_score_thresh=score_threshold)


def coco_label(class_name: str) -> int:
    """Number of a COCO class; TeacherError, with the nearest names, if there is no such class."""
    categories = _weights_enum().meta["categories"]
    names = [name for name in categories if name not in ("__background__", "N/A")]
    if class_name in names:
        return categories.index(class_name)
    near = difflib.get_close_matches(class_name.lower(), names, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"they are {', '.join(names)}"
    raise TeacherError(f"Mask R-CNN knows no class {class_name!r} among the {len(names)} of COCO; {hint}")


def weights_name() -> str:
    """File name of the official COCO_V1 weights."""
    return PurePosixPath(_weights_enum().url).name


def _weights_enum() -> Any:
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    return MaskRCNN_ResNet50_FPN_Weights.COCO_V1


def _read_weights(path: str | os.PathLike[str] | None) -> dict[str, torch.Tensor]:
    if path is None or not Path(path).is_file():
        said = "not given" if path is None else f"{path}: no such file"
        raise TeacherError(
            f"{said}; Mask R-CNN needs its COCO weights, the file {weights_name()} (170 MB). On a machine with a "
            "network, this fetches it and says where to: python -c 'from torchvision.models.detection import "
            "MaskRCNN_ResNet50_FPN_Weights as W; W.COCO_V1.get_state_dict(progress=True)'")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as err:
        raise TeacherError(f"{path}: damaged, or no file of weights; the file wanted is {weights_name()}") from err


def resized(picture: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """A picture at another size (width, height), bilinearly; as it is where it has that size."""
    return picture if picture.size == size else picture.resize(size, PIL.Image.Resampling.BILINEAR)


def none_if_empty(mask: np.ndarray) -> np.ndarray | None:
    """What a teacher returns for object pixels: None where there is no object."""
    return mask if mask.any() else None
