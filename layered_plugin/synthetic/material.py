"""Find and prepare the material of a composite data set: RGBA cut-outs and background photographs.

Files that can't serve are left out and reported with their reason; they never stop the others.
"""

import fnmatch
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from layered_plugin.data.files import UNREADABLE, Folder
from layered_plugin.errors import PictureError, UnusableError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Source(NamedTuple):
    """One prepared picture."""

    name: str  # folder and path within it, for the manifest
    image: Image.Image  # cut-out: premultiplied RGBa; background: RGB


def find_files(folders: Sequence[str], exclude: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """Picture files below folders, sorted by their path within each: a name for the manifest, and the path.

    Those whose path within the folder matches one of the shell patterns `exclude` are left out. PictureError if a
    folder does not exist.
    """
    files = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise PictureError(f"no such folder: {folder}")
        files += [(f"{folder.resolve().name}/{name}", folder / name) for name in Folder(folder).list_names()
                  if Path(name).suffix.lower() in SUFFIXES
                  and not any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude)]
    return files


def prepare_cutout(image: Image.Image, largest_side_px: int) -> Image.Image:
    """Premultiply and shrink a cut-out; its transparent margins stay, they are part of its size.

    Args:
        image: Picture with an alpha channel or a transparent palette entry.
        largest_side_px: Longest side afterwards; smaller pictures keep their size.

    Returns:
        Premultiplied RGBa picture with a transparent rim of 2 pixels, so that resampling never cuts an edge hard.

    Raises:
        UnusableError: If there is no alpha channel, or no object in it.
    """
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        raise UnusableError("no alpha channel")
    image = image.convert("RGBA")
    faintest, strongest = image.getchannel("A").getextrema()
    if faintest == 255:
        raise UnusableError("alpha channel without a transparent pixel")
    if strongest == 0:
        raise UnusableError("alpha channel without an opaque pixel")
    image = image.convert("RGBa")
    ratio = largest_side_px / max(image.size)
    if ratio < 1:
        # Hamming has no negative lobes: colours stay below the opacity that they are premultiplied with.
        size = (max(round(image.width * ratio), 1), max(round(image.height * ratio), 1))
        image = image.resize(size, Image.Resampling.HAMMING)
    padded = Image.new("RGBa", (image.width + 4, image.height + 4))
    padded.paste(image, (2, 2))
    return padded


def prepare_background(image: Image.Image, shorter_side_px: int) -> Image.Image:
    """Shrink a photograph, so that cropping it is cheap, and make it RGB; smaller ones keep their size."""
    # JPEG files are decoded at a reduced size right away.
    image.draft("RGB", (shorter_side_px, shorter_side_px))
    image = image.convert("RGB")
    ratio = shorter_side_px / min(image.size)
    if ratio < 1:
        image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.LANCZOS)
    return image


def load_all(option: str, folders: Sequence[str], exclude: Sequence[str],
             prepare: Callable[[Image.Image, int], Image.Image], side_px: int) -> list[Source]:
    """Find, read and prepare all of one kind, in the order of `find_files`, by `prepare`, as one of the two above.

    A file that cannot serve is left out, and named on standard error after the `option`. PictureError if not one can.
    """
    files, loaded = find_files(folders, exclude), []
    for name, path in files:
        try:
            with Image.open(path) as image:
                loaded.append(Source(name, prepare(image, side_px)))
        except (UnusableError, *UNREADABLE) as err:
            reason = err if isinstance(err, UnusableError) else f"unreadable ({err})"
            print(f"{option}: left out {path}: {reason}", file=sys.stderr)
    num_left_out = len(files) - len(loaded)
    if not loaded:
        raise PictureError(f"no usable picture in {', '.join(folders)} ({len(files)} files found, {num_left_out} left "
                           "out)")
    print(f"{option}: {len(loaded)} pictures, {num_left_out} left out", file=sys.stderr)
    return loaded


def premultiplied_planes(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Split a premultiplied RGBa picture into colour [H, W, 3] and opacity [H, W], float32 in [0, 1]."""
    levels = np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(image.height, image.width, 4)
    planes = levels.astype(np.float32) / 255.0
    return planes[:, :, :3], planes[:, :, 3]
