"""Distillation: pairs of picture and mask that a layered generator draws on the fly, for a U-Net to learn from.

Not in the paper; the route that the later literature reports. No true mask is seen, nor any real picture.
"""

from dataclasses import dataclass
from typing import Any

import torch

from layered_plugin.data.labels import Labels
from layered_plugin.data.masks import remove_small_parts
from layered_plugin.errors import UserError
from layered_plugin.model.layers import Layers, composite, fold_objects, unfold_objects, union_mask
from layered_plugin.model.perturb import random_shift, shift_foreground
from layered_plugin.model.scenes import random_codes
from layered_plugin.segmentation.augment import clean_edges, detail_of, disturb, random_affine, vary_shape


@dataclass(frozen=True)
class PairFilter:
    """Cleans the masks of pairs, and says which of them serve as examples."""

    min_coverage: float = 0.02  # Smallest share of the picture that the object may cover.
    max_coverage: float = 0.7  # Largest such share.
    min_part: float = 0.2  # Parts of a mask smaller than this share of its largest are removed, such holes filled.

    def __call__(self, img: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean the masks and drop the pairs whose object is too small or too large.

        Args:
            img: Pictures, [N, 3, H, W].
            mask: Opacities, [N, 1, H, W], in [0, 1].

        Returns:
            Pictures [M, 3, H, W] and binary masks [M, 1, H, W], float, M <= N.
        """
        clean = torch.from_numpy(remove_small_parts((mask[:, 0] > 0.5).cpu().numpy(), self.min_part)).to(mask.device)
        coverage = clean.float().mean(dim=[1, 2])
        keep = (coverage >= self.min_coverage) & (coverage <= self.max_coverage)
        return img[keep], clean[keep].unsqueeze(1).to(img.dtype)


@dataclass
class PairSampler:
    """Endless pictures with masks from a generator, for training a segmenter."""

    G: Any  # Layered generator in evaluation mode.
    shift: float  # Largest shift of the foreground, as a fraction of the resolution; as in the generator's training.
    keep: PairFilter  # Cleans the masks, and says which pairs serve.
    seed: int  # Of latents, shifts and augmentation.
    vary: float = 0.0  # Probability that the outline of an object is bent, see `vary_shape`.
    force_fp32: bool = False  # Compute the generator in float32?
    labels: Labels | None = None  # Of the scenes; None = every class equally likely.

    def __post_init__(self) -> None:
        self.max_px, self.detail = round(self.shift * self.G.img_resolution), detail_of(self.G.img_resolution)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.drawn = self.kept = 0

    @torch.no_grad()
    def scenes(self, num: int) -> Layers:
        """Draw N scenes of objects with clean edges, some of them with bent outlines, each shifted by its own."""
        ws = random_codes(self.G, num, self.labels or Labels(self.G.c_dim), self.generator)
        layers = self.G.synthesis(ws, noise_mode="random", return_layers=True, force_fp32=self.force_fp32)
        objects = vary_shape(clean_edges(fold_objects(layers), 3 * self.detail), self.vary, self.generator)
        if self.max_px > 0:
            shift = random_shift(len(objects.mask), self.max_px, generator=self.generator).to(ws.device)
            objects = shift_foreground(objects, shift)
        return unfold_objects(objects, layers.bg)

    def batch(self, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw until `num` pairs serve, then augment them; a mask is of all objects of a scene together.

        Returns:
            Pictures [num, 3, H, W] in [-1, 1] and masks [num, 1, H, W] in [0, 1].

        Raises:
            UserError: Next to none of the generator's masks serves.
        """
        pictures: list[torch.Tensor] = []
        masks: list[torch.Tensor] = []
        while sum(map(len, pictures)) < num:
            layers = self.scenes(num)
            img, mask = self.keep(composite(layers).clamp(-1, 1), union_mask(layers))
            self.drawn, self.kept = self.drawn + num, self.kept + len(img)
            if self.drawn >= 1000 and self.kept < 0.01 * self.drawn:
                raise UserError(f"only {self.kept} of {self.drawn} generated masks cover between "
                                f"{self.keep.min_coverage:g} and {self.keep.max_coverage:g} of the picture: "
                                "the generator's masks have collapsed; look at its layer grids")
            pictures.append(img)
            masks.append(mask)
        img, mask = random_affine(torch.cat(pictures)[:num], torch.cat(masks)[:num], self.generator)
        return disturb(img, self.generator, self.detail), mask
