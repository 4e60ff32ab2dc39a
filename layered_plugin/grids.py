"""Pictures of a run: image grids and layer grids that a person reads at a glance; computes no number."""

import os

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

from layered_plugin.data.pictures import to_uint8
from layered_plugin.files import atomic_write

NAMES_PX = 92  # Room for the names of rows.
GAP_PX = 2


def image_grid(img: torch.Tensor, columns: int) -> PIL.Image.Image:
    """Lay out images [N, C, H, W] in [-1, 1], C = 1 or 3, in rows of so many columns, of which N is a multiple."""
    if len(img) % columns != 0:
        raise ValueError(f"Expected argument `img` to hold a multiple of {columns} images, but got {len(img)}")
    pixels = to_uint8(img).expand(-1, 3, -1, -1).cpu().numpy()  # [N, 3, H, W]
    num, _channels, height, width = pixels.shape
    pixels = pixels.reshape(num // columns, columns, 3, height, width).transpose(0, 3, 1, 4, 2)
    return PIL.Image.fromarray(pixels.reshape(num // columns * height, columns * width, 3))


def picture_rows(rows: dict[str, torch.Tensor], cell_px: int = 64) -> PIL.Image.Image:
    """Draw named rows of pictures [N, C, H, W] in [-1, 1], C = 1 or 3, of one size.

    Those smaller than cell_px are enlarged by a whole factor, without smoothing.
    """
    strips = [image_grid(row, columns=len(row)) for row in rows.values()]
    scale = max(1, -(-cell_px // strips[0].height))
    strips = [strip.resize((strip.width * scale, strip.height * scale), PIL.Image.Resampling.NEAREST)
              for strip in strips]
    step = strips[0].height + GAP_PX
    sheet = PIL.Image.new("RGB", (NAMES_PX + strips[0].width, step * len(rows) - GAP_PX), "white")
    draw = PIL.ImageDraw.Draw(sheet)
    font = PIL.ImageFont.load_default(size=14)
    for idx, (name, strip) in enumerate(zip(rows, strips, strict=True)):
        sheet.paste(strip, (NAMES_PX, idx * step))
        draw.text((4, idx * step + strip.height // 2), name, fill="black", font=font, anchor="lm")
    return sheet


def save_picture(picture: PIL.Image.Image, path: str | os.PathLike) -> None:
    """Write a PNG whole or not at all."""
    with atomic_write(path) as file:
        picture.save(file, format="PNG")
