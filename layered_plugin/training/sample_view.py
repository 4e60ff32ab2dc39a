"""The same scenes over a whole training, drawn as layers; Figure 2 of the paper."""

from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.pictures import to_float
from layered_plugin.grids import image_grid, picture_rows
from layered_plugin.model.layers import Layers, composite
from layered_plugin.model.perturb import shift_foreground

OBJECT_ROWS = ("foreground", "mask", "fg x mask")


def layer_grid(layers: Layers, shifted: torch.Tensor, cell_px: int = 64) -> PIL.Image.Image:
    """Draw one scene per column, one layer per named row, as Figure 2 of the paper does.

    Args:
        layers: N unshifted scenes of K objects, in [-1, 1], the masks in [0, 1].
        shifted: Their shifted composites, [N, C, H, W].
        cell_px: Least side of a picture; smaller ones are enlarged by a whole factor, without smoothing.

    Returns:
        Rows from top to bottom: background; `OBJECT_ROWS` of each object from back to front, numbered if K > 1;
        composite; shifted composite.
    """
    num_objects = layers.mask.shape[1]
    rows = dict(background=layers.bg)
    for number, (fg, mask) in enumerate(zip(layers.fg.chunk(num_objects, dim=1), layers.mask.split(1, dim=1),
                                            strict=True), start=1):
        suffix = f" {number}" if num_objects > 1 else ""
        parts = [fg, mask * 2 - 1, fg * mask + mask - 1]
        rows.update({name + suffix: part for name, part in zip(OBJECT_ROWS, parts, strict=True)})
    rows.update(composite=composite(layers), shifted=shifted)
    return picture_rows(rows, cell_px)


class SampleView:
    """The same few scenes and pictures at every snapshot; draws nothing from PyTorch's default generators.

    Of the generator it takes dimensions and device; `shift_px` is the largest shift in the last row of a layer grid.
    """

    columns, rows = 16, 8  # Upstream's 1024 pictures of a small resolution would dominate a CPU run.
    scenes = 12

    def __init__(self, G: Any, training_set: PictureDataset, seed: int, shift_px: int):
        device = next(G.parameters()).device
        draws = np.random.RandomState(seed)
        num = self.columns * self.rows
        picks = draws.permutation(len(training_set))[np.arange(num) % len(training_set)]
        self.real_img = torch.from_numpy(np.stack([training_set[idx][0] for idx in picks]))
        labels = np.stack([training_set.get_label(idx) for idx in picks])
        self.z = torch.from_numpy(draws.randn(num, G.z_dim)).to(device, torch.float32)
        self.c = torch.from_numpy(labels).to(device)
        num_objects = getattr(G, "num_objects", 1)  # The host's own generator has none.
        shift = draws.randint(-shift_px, shift_px + 1, [self.scenes * num_objects, 2])
        self.shift = torch.from_numpy(shift).to(device)

    def reals(self) -> PIL.Image.Image:
        """Grid of real pictures, before the random crop."""
        return image_grid(to_float(self.real_img), self.columns)

    @torch.no_grad()
    def fakes(self, G_ema: torch.nn.Module) -> PIL.Image.Image:
        """Grid of unshifted composites."""
        img = [G_ema(z=z, c=c, noise_mode="const") for z, c in zip(self.z.split(32), self.c.split(32), strict=True)]
        return image_grid(torch.cat(img), self.columns)

    @torch.no_grad()
    def layers(self, G_ema: torch.nn.Module) -> PIL.Image.Image:
        """Layer grid of a few scenes."""
        scenes = G_ema(z=self.z[:self.scenes], c=self.c[:self.scenes], noise_mode="const", return_layers=True)
        return layer_grid(scenes, composite(shift_foreground(scenes, self.shift)))
