"""Pictures of a folder, a zip or one file, opened one at a time; every failure names the file."""

import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps

# What Pillow and zipfile raise for files that are damaged, encrypted, missing, or too large to be honest.
UNREADABLE = (OSError, ValueError, SyntaxError, KeyError, EOFError, RuntimeError, MemoryError, zlib.error,
              lzma.LZMAError, zipfile.BadZipFile, PIL.Image.DecompressionBombError)


BATCH_PIXELS = 30_000_000  # Pictures, masks and layers are held at full size, at about 30 bytes a pixel.
T = TypeVar("T")


class PictureError(Exception):
    """A data set or one of its pictures cannot be read; the text names the file."""


class PictureSource:
    """Names of the pictures of a folder (searched recursively), a zip, or a single file, and a way to open each.

    Args:
        path: Folder, zip or picture.

    Raises:
        PictureError: It is none of these, or holds no pictures.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._zip_owner: int | None = None
        PIL.Image.init()
        if self.path.is_file() and is_picture_name(self.path.name):
            self.folder, self.names = self.path.parent, [self.path.name]
            return
        self.folder = self.path
        try:
            if self.path.is_dir():
                found = [p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()]
            else:
                found = self.archive().namelist()
        except UNREADABLE as err:
            raise PictureError(f"{self.path}: neither a folder nor a readable zip: {err}") from err
        self.names = sorted(name for name in found if is_picture_name(name))
        if not self.names:
            raise PictureError(f"{self.path}: holds no pictures")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_zip(self) -> bool:
        """Whether the pictures come out of an archive."""
        return not self.folder.is_dir()

    def archive(self) -> zipfile.ZipFile:
        """The open zip; opened anew in a process that inherited this object."""
        # A forked process shares the file position of its parent.
        if self._zip is None or self._zip_owner != os.getpid():
            self._zip, self._zip_owner = zipfile.ZipFile(self.path), os.getpid()
        return self._zip

    def read(self, name: str) -> bytes:
        """Contents of any file of the folder or zip.

        Raises:
            KeyError, FileNotFoundError: There is no such file.
        """
        return self.archive().read(name) if self.is_zip else (self.folder / name).read_bytes()

    def open(self, name: str) -> PIL.Image.Image:
        """Decode one picture, in its own mode and size, upright as its EXIF orientation says.

        Raises:
            PictureError: It can't be read.
        """
        try:
            file = self.archive().open(name) if self.is_zip else (self.folder / name).open("rb")
            with file:
                picture = PIL.Image.open(file)
                picture.load()
            return PIL.ImageOps.exif_transpose(picture)
        except UNREADABLE as err:
            raise PictureError(f"{self.path}: cannot read picture {name}: {err}") from err

    def close(self) -> None:
        """Close the zip, if one is open."""
        if self._zip is not None:
            self._zip.close()
            self._zip = None

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _zip=None)


def full_batches(items: Iterable[T], pixels: Callable[[T], int], batch: int) -> Iterator[list[T]]:
    """Group what comes, as many at a time as asked for, but fewer of large pictures: memory stays bounded.

    Args:
        items: What holds a picture each.
        pixels: Size of an item's picture.
        batch: Items at a time, at most; a group ends early once it has ``BATCH_PIXELS``.
    """
    held: list[T] = []
    num_pixels = 0
    for item in items:
        held.append(item)
        num_pixels += pixels(item)
        if len(held) == batch or num_pixels >= BATCH_PIXELS:
            yield held
            held, num_pixels = [], 0
    if held:
        yield held


def to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A picture of any mode as 8-bit RGB; transparency is dropped, 16-bit gray keeps its upper 8 bits."""
    if picture.mode.startswith("I"):  # Pillow would clip at 255, and make nearly everything white.
        levels = np.asarray(picture).clip(0, 65535)
        levels = levels >> 8 if levels.max() > 255 else levels
        return PIL.Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if picture.mode == "P":  # Pillow warns of palettes with transparency unless they go through RGBA.
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def is_picture_name(name: str) -> bool:
    """Whether a file's name has the suffix of a format that Pillow knows, once ``PIL.Image.init()`` has run."""
    # Data sets made on a Mac carry a shadow of every file.
    hidden = name.startswith("__MACOSX/") or os.path.basename(name).startswith("._")
    return os.path.splitext(name)[1].lower() in PIL.Image.EXTENSION and not hidden
