"""Pictures with transparency as a data set: on a colour for training, their opacity as true masks."""

import numpy as np

from layered_plugin.data.downloads import Archive, Entry, decode_bytes
from layered_plugin.data.files import is_picture_name
from layered_plugin.data.masks import OBJECT_LEVEL
from layered_plugin.data.pictures import to_rgb
from layered_plugin.errors import PictureError


def alpha_pictures(archive: Archive, backdrop: str) -> list[Entry]:
    """Every picture, sorted by name, with its mask; PictureError if there are none.

    Behind what is transparent comes `backdrop`, a colour as Pillow names it; hidden colours are lost. A picture without
    transparency can't be loaded, and is left out when they are written.
    """
    names = [name for name in archive.names if is_picture_name(name)]
    if not names:
        raise PictureError(f"{archive.path}: holds no pictures")
    return [_entry(archive, name, backdrop) for name in sorted(names)]


def _entry(archive: Archive, name: str, backdrop: str) -> Entry:
    def load():
        picture = decode_bytes(archive.read(name), name, upright=True)
        if not picture.has_transparency_data:
            raise PictureError(f"{name}: has no transparency")
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
        return to_rgb(picture, backdrop), alpha >= OBJECT_LEVEL

    return Entry(name, load)
