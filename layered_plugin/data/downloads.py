"""Archives as downloaded, packed or unpacked, and the pictures that data sets are made of."""

import contextlib
import gzip
import io
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import PIL.Image
import PIL.ImageOps

from layered_plugin.data.pictures import UNREADABLE
from layered_plugin.errors import PictureError
from layered_plugin.progress import progress

_BLOCK = 1 << 20


def find_download(folder: str | os.PathLike[str], archive: str, unpacked: Sequence[str]) -> Path:
    """Find a download in a folder: unpacked, or as an archive.

    Args:
        folder: Where the downloads lie.
        archive: Name of the archive as downloaded, such as ``images.tgz``; a zip or plain tar of that name will do.
        unpacked: Names of the folders that it may have been unpacked to; they are taken first.

    Raises:
        PictureError: It isn't there.
    """
    for name in unpacked:
        if (Path(folder) / name).is_dir():
            return Path(folder) / name
    for suffix in (Path(archive).suffix, ".tar.gz", ".tar", ".zip"):
        path = (Path(folder) / archive).with_suffix(suffix)
        if path.is_file():
            return path
    raise PictureError(f"{folder}: holds neither {archive} nor a folder {' or '.join(unpacked)}")


class Archive:
    """Names and contents of the files of a folder, a zip or a tar archive.

    A compressed tar can't be read at random, so it is unpacked once into a nameless temporary file.

    Args:
        path: Folder or archive.
        temp_dir: Folder on a disk that has room for the unpacked tar.

    Raises:
        PictureError: It is none of these, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str], temp_dir: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._tar: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}
        with contextlib.ExitStack() as stack:
            try:
                self.names = sorted(self._open(stack, Path(temp_dir)))
            except tarfile.TarError as err:
                raise PictureError(f"{self.path}: neither a folder nor a whole zip or tar archive ({err}); "
                                   "if it was downloaded, download it again") from err
            except UNREADABLE as err:
                raise PictureError(f"{self.path}: cannot be read ({err})") from err
            self._stack = stack.pop_all()

    def _open(self, stack: contextlib.ExitStack, temp_dir: Path) -> list[str]:
        if self.path.is_dir():
            return [file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file()]
        if zipfile.is_zipfile(self.path):
            self._zip = stack.enter_context(zipfile.ZipFile(self.path))
            return [info.filename for info in self._zip.infolist() if not info.is_dir()]
        plain = stack.enter_context(_plain_tar(self.path, temp_dir))
        self._tar = stack.enter_context(tarfile.open(fileobj=plain, mode="r:"))
        self._members = {member.name.removeprefix("./"): member for member in self._tar if member.isfile()}
        return list(self._members)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def read(self, name: str) -> bytes:
        """Contents of one of ``names``.

        Raises:
            PictureError: It can't be read.
        """
        try:
            if self._zip is not None:
                return self._zip.read(name)
            if self._tar is not None:
                file = self._tar.extractfile(self._members[name])
                return file.read() if file is not None else b""
            return (self.path / name).read_bytes()
        except (*UNREADABLE, tarfile.TarError) as err:
            raise PictureError(f"{self.path}: cannot read {name} ({err})") from err

    def by_ending(self, num_parts: int) -> dict[str, str]:
        """Names by their last parts, such as ``images.txt`` for 1, wherever they were packed or unpacked.

        Where several end alike, the one that lies least deep counts.
        """
        names = sorted(self.names, key=lambda name: -name.count("/"))
        return {"/".join(PurePosixPath(name).parts[-num_parts:]): name for name in names}


def _plain_tar(path: Path, temp_dir: Path) -> IO[bytes]:
    """The archive as an open, uncompressed tar."""
    raw = open(path, "rb")
    if raw.read(2) != b"\x1f\x8b":
        raw.seek(0)
        return raw
    with raw:
        raw.seek(0)
        temp_dir.mkdir(parents=True, exist_ok=True)
        plain = tempfile.TemporaryFile(dir=temp_dir)
        try:
            for _percent in progress(_inflate(raw, plain, path.stat().st_size), 100, f"unpacking {path.name}, %"):
                pass
        except (EOFError, zlib.error, gzip.BadGzipFile) as err:
            plain.close()
            raise PictureError(f"{path}: damaged or cut off ({err}); download it again") from err
        except OSError as err:
            plain.close()
            raise PictureError(f"{path}: cannot be unpacked into {temp_dir} ({err})") from err
    plain.seek(0)
    return plain


def _inflate(raw: IO[bytes], plain: IO[bytes], size: int) -> Iterator[None]:
    """Unpack; yields once for every hundredth of the compressed file."""
    shown = 0
    with gzip.GzipFile(fileobj=raw) as file:
        while block := file.read(_BLOCK):
            plain.write(block)
            while shown < raw.tell() * 100 // size:
                shown += 1
                yield None


@dataclass(frozen=True)
class Entry:
    """One picture of a data set."""

    name: str  # For messages.
    load: Callable[[], tuple[PIL.Image.Image, np.ndarray | None]]  # Picture; mask [H, W], bool. Raises PictureError.
    label: int | None = None  # Class number from 0 on.


def decode(data: bytes, name: str, upright: bool = False) -> PIL.Image.Image:
    """Decode an encoded picture of any format.

    Args:
        data: Contents of the file.
        name: For the error.
        upright: Turn as its EXIF orientation says; annotations are of the unturned picture.

    Raises:
        PictureError: It can't be decoded.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return PIL.ImageOps.exif_transpose(picture) if upright else picture
    except UNREADABLE as err:
        raise PictureError(f"{name}: unreadable ({err})") from err
