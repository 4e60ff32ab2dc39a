"""One picture to judge many masks by: the first pictures with their cut-outs beneath."""

import io
import itertools
from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from layered_plugin.files import atomic_write
from layered_plugin.segmentation.outputs import encode_png

SHEET_PICTURES, SHEET_COLUMNS, CELL_PX = 48, 8, 96
REDUCING_GAP = 2.0  # Pixels are averaged before the filter down to so many cells' size: quicker, and looks the same.
SHEET_GROUND = (208, 208, 208)  # Behind cut-outs.


def write_contact_sheet(dest: Path, cutouts: Iterable[bytes]) -> None:
    """Draw the first of some encoded cut-outs beneath their pictures, if there are any; no more are asked for."""
    first = list(itertools.islice(cutouts, SHEET_PICTURES))
    rows = -(-len(first) // SHEET_COLUMNS)
    if rows == 0:
        return
    sheet = PIL.Image.new("RGB", (min(len(first), SHEET_COLUMNS) * CELL_PX, rows * 2 * CELL_PX), "white")
    for idx, data in enumerate(first):
        left, top = idx % SHEET_COLUMNS * CELL_PX, idx // SHEET_COLUMNS * 2 * CELL_PX
        cutout = PIL.Image.open(io.BytesIO(data))
        enlarge = PIL.Image.Resampling.NEAREST if max(cutout.size) < CELL_PX else PIL.Image.Resampling.LANCZOS
        scale = CELL_PX / max(cutout.size)
        size = (max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale)))
        shrink = max(1, int(max(cutout.size) / CELL_PX / REDUCING_GAP))
        picture = cutout.convert("RGB").reduce(shrink)  # A cut-out keeps the colors that it hides.
        ground = PIL.Image.new("RGB", picture.size, SHEET_GROUND)
        ground.paste(picture, mask=cutout.getchannel("A").reduce(shrink))
        sheet.paste(picture.resize(size, enlarge), (left, top))
        sheet.paste(ground.resize(size, enlarge), (left, top + CELL_PX))
    with atomic_write(dest) as file:
        file.write(encode_png(sheet))
