"""Segmenter: real pictures to masks with a trained model, the Python side of ``invert.py segment``.

    segmenter = Segmenter.load("runs/00001-distill")
    for result in segmenter([PIL.Image.open("apple.jpg")]):
        result.mask  # [H, W] float32 in [0, 1], at the picture's own size
"""

import os
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from layered_plugin.data.pictures import to_float, to_rgb, to_uint8
from layered_plugin.device import choose_device, fast_half, must_fp32
from layered_plugin.errors import ArgumentError, ModelError
from layered_plugin.model.encoder import Codes, Encoder, decode
from layered_plugin.model.layers import Layers, composite
from layered_plugin.model.unet import fold_batch_norm
from layered_plugin.runs import find_model
from layered_plugin.segmentation.colors import MARGIN
from layered_plugin.segmentation.full_size import Drawn, Segmentation, enlarge, shrink
from layered_plugin.segmentation.model_file import fill, load_model, load_tensors
from layered_plugin.segmentation.reconstruction import Reconstruction, posterior_mask, refine_codes


@dataclass(frozen=True)
class Refinement:
    """What is done for a mask beyond one pass through the network; each field is also an option of the commands."""

    flip: bool = False  # Average the mask with that of the mirrored picture?
    refine: int = 0  # Steps of gradient descent on the codes of each picture; encoders only.
    posterior: bool = False  # Correct the mask pixel by pixel (`posterior_mask`); encoders only.
    prior: "Segmenter | None" = None  # Distilled model of the same resolution, to whose masks the descent keeps.
    sharp: bool = True  # Correct masks by the pictures' colors (`colors`), those of much larger pictures by `edges`?
    margin: float | None = None  # As of `correct_by_colors`, if sharp; None = the model's (`Segmenter.margin`).

    def check(self, segmenter: "Segmenter") -> None:
        """See that a model can do this; ArgumentError, with the field, if it can't."""
        if self.refine < 0 or not 0 <= (self.margin or 0) <= 0.5:
            raise ArgumentError(f"`refine` must be 0 or more, `margin` from 0 to 0.5; got {self.refine}, {self.margin}")
        for name, lacks in (("refine", "has no codes"), ("posterior", "draws no layers")):
            if getattr(self, name) and segmenter.kind == "distill":
                raise ArgumentError(f"`{name}` needs an encoder; {segmenter.folder} is distilled and {lacks}")
        if self.prior is None:
            return
        if self.refine == 0:
            raise ArgumentError("`prior` is for an encoder's refinement: it needs `refine` of at least 1")
        if self.prior.kind != "distill":
            raise ArgumentError(f"`prior` must be a distilled model, but {self.prior.folder} holds an encoder")
        if self.prior.resolution != segmenter.resolution:
            raise ArgumentError(f"`prior` must be of the encoder's resolution, but {self.prior.folder} is of "
                                f"{self.prior.resolution}x{self.prior.resolution} and {segmenter.folder} of "
                                f"{segmenter.resolution}x{segmenter.resolution}")

    def record(self) -> dict[str, Any]:
        """The fields for a JSON file; the prior by its folder."""
        return dict(flip=self.flip, refine=self.refine, posterior=self.posterior, sharp=self.sharp, margin=self.margin,
                    prior=None if self.prior is None else str(self.prior.folder.resolve()))

    def margin_for(self, segmenter: "Segmenter") -> float:
        """The margin given, else the model's."""
        return segmenter.margin if self.margin is None else self.margin


USUAL = Refinement()  # One pass through the network; its mask corrected by the colors.


class Segmenter:
    """A trained model, ready for pictures; make one with `Segmenter.load`."""

    def __init__(self, folder: Path, meta: dict[str, Any], networks: dict[str, Any], device: str):
        self.folder = folder
        self.kind: str = meta["kind"]
        self.resolution: int = meta["resolution"]
        self.options: dict[str, Any] = meta.get("options", {})
        self.margin: float = meta.get("margin", MARGIN)  # What distillation found of its pictures (`rare_border`).
        self.networks = networks
        self.device = device
        self._chunks: list[dict[str, Any]] = meta.get("chunks", [])
        self._chunk_of = {name: idx for idx, chunk in enumerate(self._chunks) for name in chunk["names"]}
        self._bytes_of = {name: size for chunk in self._chunks
                          for name, size in zip(chunk["names"], chunk.get("bytes", []), strict=False)}
        self._loaded_chunk: int | None = None
        self.letterbox = self.kind == "distill"  # An encoder reconstructs what it learnt from: squeezed pictures.

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "auto") -> "Segmenter":
        """Read a model; executes no code from its files.

        Args:
            path: Run folder of `invert.py train` or `invert.py distill`, or a file of it.
            device: auto, cpu, cuda or mps.

        Raises:
            ModelError: The model can't be used; the text names its file.
            ArgumentError: The device is not there.
            TypeError: The path is none.
        """
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"Expected argument `path` to be a path, but got {type(path).__name__}")
        device = choose_device(device)
        meta, networks = load_model(path, device)
        if "unet" in networks:
            networks["unet"] = fold_batch_norm(networks["unet"])
        return cls(find_model(path), meta, networks, device)

    def __call__(self, images: Sequence[PIL.Image.Image | np.ndarray], names: Sequence[str] | None = None,
                 refinement: Refinement = USUAL) -> list[Segmentation]:
        """Segment pictures, all in one batch; gradient mode, autocast, default dtype and device don't matter.

        Args:
            images: PIL pictures of any mode, which are turned upright as their EXIF orientation says, or arrays
                [H, W, 3] uint8; sizes may differ. Each is brought to the network's square, and its mask back to the
                (upright) picture's own size.
            names: Names of the pictures in the data set; a model of chunks finds its encoder by them.
            refinement: What is done beyond one pass through the network.

        Raises:
            ValueError: A picture or the names have another shape or type, or the refinement does not fit the model.
            ModelError: A model of chunks was not trained on a picture of this name.
            TypeError: The refinement is none.
        """
        if not isinstance(refinement, Refinement):
            raise TypeError(f"Expected argument `refinement` to be a Refinement, but got {type(refinement).__name__}")
        if isinstance(images, PIL.Image.Image | str | os.PathLike) or getattr(images, "ndim", 4) in (2, 3):
            raise ValueError("Expected argument `images` to be a list of pictures, but got one by itself")
        if not isinstance(names, Sized | None):
            raise ValueError(f"Expected argument `names` to be a list of names or None, but got {type(names).__name__}")
        pictures = [_to_picture(image) for image in images]
        if not pictures:
            return []
        if names is not None and len(names) != len(pictures):
            raise ValueError(f"Expected argument `names` to have {len(pictures)} entries, but got {len(names)}")
        squares = np.stack([shrink(picture, self.resolution, self.letterbox) for picture in pictures])
        with torch.autocast(self.device, enabled=False), torch.inference_mode(False), torch.enable_grad():
            drawn, margin = self.draw(squares, names, refinement), refinement.margin_for(self)
            return [enlarge(result, picture, refinement.sharp, self.letterbox, margin)
                    for result, picture in zip(drawn, pictures, strict=True)]

    def draw(self, squares: np.ndarray, names: Sequence[str] | None = None,
             refinement: Refinement = USUAL) -> list[Drawn]:
        """What the network says of pictures, at its own resolution: the part of segmenting that is worth a GPU.

        Args:
            squares: Pictures brought to the network's square (`shrink`), [N, 3, R, R], uint8.
            names, refinement: As for a call, whose errors it has; `sharp` and `margin` play no part yet.
        """
        refinement.check(self)
        img = to_float(torch.from_numpy(squares).to(self.device))
        if self.kind == "distill":
            mask = self._unet_mask(img, refinement.flip)
            return [Drawn(opacity) for opacity in _opacities(mask)]
        if self.kind == "encoder":
            return self._invert(self.networks["E"], img, refinement)
        if names is None:
            raise ValueError("Expected argument `names` for a model of chunks: each has an encoder of its own")
        return self._invert_chunks(img, names, refinement)

    def refusal(self, name: str, num_bytes: int | None = None) -> str | None:
        """Why the model can't segment a picture of this name, and so many bytes if they are known; None if it can.

        A model of chunks knows only its own pictures.
        """
        if self.kind != "chunks":
            return None
        if name not in self._chunk_of:
            return (f"{self.folder}: no chunk was trained on a picture named {name}; encoders of chunks know only "
                    "their own pictures: use invert.py train --mode=dataset, or distill")
        before = self._bytes_of.get(name, num_bytes)
        if num_bytes in (None, before):
            return None
        return (f"{self.folder}: {name} is not the picture that its chunk was trained on, which had {before} bytes, "
                f"not {num_bytes}; put it back, or train on the pictures as they are")

    @torch.inference_mode()
    def _unet_mask(self, img: torch.Tensor, flip: bool) -> torch.Tensor:
        mask = self._unet_opacity(img)
        return (mask + self._unet_opacity(img.flip(3)).flip(3)) / 2 if flip else mask

    def _unet_opacity(self, img: torch.Tensor) -> torch.Tensor:
        with fast_half(img.device):
            logits = self.networks["unet"](img.contiguous(memory_format=torch.channels_last))
        return logits.float().sigmoid()

    def _invert_chunks(self, img: torch.Tensor, names: Sequence[str], refinement: Refinement) -> list[Drawn]:
        for name in names:
            refused = self.refusal(name)
            if refused is not None:
                raise ModelError(refused)
        results: dict[int, Drawn] = {}  # By position of the picture.
        for chunk in sorted({self._chunk_of[name] for name in names}):
            members = [pos for pos, name in enumerate(names) if self._chunk_of[name] == chunk]
            of_chunk = self._invert(self._chunk_encoder(chunk), img[members], refinement)
            results.update(zip(members, of_chunk, strict=True))
        return [results[pos] for pos in range(len(names))]

    def _chunk_encoder(self, chunk: int) -> Encoder:
        """One encoder is in memory at a time: pictures come in the order of the chunks."""
        if chunk != self._loaded_chunk:
            path = self.folder / self._chunks[chunk]["file"]
            E = fill(self.networks["E"], "E", load_tensors(path), path)
            self.networks["E"], self._loaded_chunk = E.to(self.device), chunk
        return self.networks["E"]

    def _invert(self, E: Encoder, img: torch.Tensor, refinement: Refinement) -> list[Drawn]:
        layers, mask = self._layers_and_mask(E, img, refinement)
        if refinement.flip:
            mask = (mask + self._layers_and_mask(E, img.flip(3), refinement)[1].flip(3)) / 2
        reconstruction = composite(layers)
        errors = (to_uint8(reconstruction).float() - to_uint8(img).float()).abs().mean(dim=[1, 2, 3]).tolist()
        drawn = (to_uint8(batch).cpu().numpy() for batch in (layers.bg, layers.fg, reconstruction))
        return [Drawn(*fields) for fields in zip(_opacities(mask), *drawn, errors, strict=True)]

    def _layers_and_mask(self, E: Encoder, img: torch.Tensor, refinement: Refinement) -> tuple[Layers, torch.Tensor]:
        G = self.networks["G"]
        codes = self._codes(E, img, refinement)
        with torch.no_grad():
            layers = decode(G, codes, force_fp32=must_fp32(G))
        return layers, posterior_mask(layers, img) if refinement.posterior else layers.mask

    def _codes(self, E: Encoder, img: torch.Tensor, refinement: Refinement) -> Codes:
        with torch.no_grad():
            codes = E(img)
        if refinement.refine == 0:
            return codes
        reconstruction = Reconstruction.from_options(self.networks["G"], self.networks["D"], self.options)
        prior = refinement.prior
        prior_mask = None if prior is None else prior._unet_mask(img, flip=False).clone()  # No inference tensor.
        return refine_codes(reconstruction, codes, img, refinement.refine, E.config["max_shift"], prior=prior_mask)


def _to_picture(image: PIL.Image.Image | np.ndarray) -> PIL.Image.Image:
    if isinstance(image, PIL.Image.Image):
        picture = to_rgb(PIL.ImageOps.exif_transpose(image))
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,):
        picture = PIL.Image.fromarray(image)
    else:
        shown = f"{image.dtype} {list(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
        raise ValueError(f"Expected argument `images` to hold PIL pictures or uint8 arrays [H, W, 3], but got {shown}")
    if 0 in picture.size:
        raise ValueError(f"Expected argument `images` to hold pictures with pixels, but got one of {picture.width} x "
                         f"{picture.height}")
    return picture


def _opacities(mask: torch.Tensor) -> np.ndarray:
    """Masks [N, 1, R, R] on any device to [N, R, R], float32."""
    return mask[:, 0].float().contiguous().cpu().numpy()
