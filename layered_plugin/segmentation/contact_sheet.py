"""One picture to judge many masks by: the first pictures with their cut-outs beneath."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from layered_plugin.files import atomic_write
from layered_plugin.segmentation.outputs import encode_png

SHEET_PICTURES, SHEET_COLUMNS, CELL_PX = 48, 8, 96
REDUCING_GAP = 2.0  # Pixels are averaged before the filter down to so many cells' size: quicker, and looks the same.
SHEET_GROUND = (208, 208, 208)  # Behind cut-outs.


def write_contact_sheet(dest: Path, masked: Iterable[tuple[PIL.Image.Image, PIL.Image.Image]]) -> None:
    """Draw the first pictures (RGB, with their masks, L) and cut-outs, if there are any; no more are asked for."""
    cells = [_cell(*pair) for pair in itertools.islice(masked, SHEET_PICTURES)]
    rows = -(-len(cells) // SHEET_COLUMNS)
    if rows == 0:
        return
    sheet = PIL.Image.new("RGB", (min(len(cells), SHEET_COLUMNS) * CELL_PX, rows * 2 * CELL_PX), "white")
    for idx, (picture, cutout) in enumerate(cells):
        left, top = idx % SHEET_COLUMNS * CELL_PX, idx // SHEET_COLUMNS * 2 * CELL_PX
        sheet.paste(picture, (left, top))
        sheet.paste(cutout, (left, top + CELL_PX))
    with atomic_write(dest) as file:
        file.write(encode_png(sheet))


def _cell(picture: PIL.Image.Image, mask: PIL.Image.Image) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """A picture and its cut-out, reduced or enlarged to the size of a cell."""
    enlarge = PIL.Image.Resampling.NEAREST if max(picture.size) < CELL_PX else PIL.Image.Resampling.LANCZOS
    scale = CELL_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    shrink = max(1, int(max(picture.size) / CELL_PX / REDUCING_GAP))
    small = picture.reduce(shrink)
    ground = PIL.Image.new("RGB", small.size, SHEET_GROUND)
    ground.paste(small, mask=mask.reduce(shrink))
    return small.resize(size, enlarge), ground.resize(size, enlarge)
