"""Names and contents of the files of a folder, a zip or a tar archive: the one place where they are opened."""

import gzip
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import PIL.Image

from layered_plugin.errors import PictureError
from layered_plugin.progress import progress

# What Pillow and zipfile raise for files that are damaged, encrypted, missing, or too large to be honest.
UNREADABLE = (OSError, ValueError, SyntaxError, KeyError, EOFError, RuntimeError, MemoryError, zlib.error,
              lzma.LZMAError, zipfile.BadZipFile, PIL.Image.DecompressionBombError)

_BLOCK = 1 << 20


class Files(Protocol):
    """Files of a folder or archive."""

    def list_names(self) -> list[str]:
        """Sorted paths within it, such as ``sub/a.png``."""

    def open(self, name: str) -> IO[bytes]:
        """Open one of them. Raises KeyError or FileNotFoundError if there is none, ``UNREADABLE`` if it is damaged."""

    def close(self) -> None:
        """Close the archive."""


class Folder:
    """A folder, searched recursively."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list_names(self) -> list[str]:
        return sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file())

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")

    def close(self) -> None:
        """There is nothing to close."""


class Zip:
    """A zip; it can be pickled, and is opened when it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._owner: int | None = None

    def archive(self) -> zipfile.ZipFile:
        """The open zip; opened anew in a process that inherited this object."""
        # A forked process shares the file position of its parent.
        if self._zip is None or self._owner != os.getpid():
            self._zip, self._owner = zipfile.ZipFile(self.path), os.getpid()
        return self._zip

    def list_names(self) -> list[str]:
        return sorted(info.filename for info in self.archive().infolist() if not info.is_dir())

    def open(self, name: str) -> IO[bytes]:
        return self.archive().open(name)

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()
            self._zip = None

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _zip=None)


class Tar:
    """A tar; a compressed one can't be read at random, so it is unpacked once into a nameless temporary file.

    Args:
        path: The archive.
        temp_dir: Folder on a disk that has room for the unpacked tar.

    Raises:
        PictureError: It is damaged, or can't be unpacked.
        tarfile.TarError: It is no tar.
    """

    def __init__(self, path: Path, temp_dir: Path) -> None:
        self._plain = _plain_tar(path, temp_dir)
        try:
            self._tar = tarfile.open(fileobj=self._plain, mode="r:")
            self._members = {member.name.removeprefix("./"): member for member in self._tar if member.isfile()}
        except BaseException:
            self._plain.close()
            raise

    def list_names(self) -> list[str]:
        return sorted(self._members)

    def open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(self._members[name])
        if file is None:
            raise KeyError(name)
        return file

    def close(self) -> None:
        self._tar.close()
        self._plain.close()


def open_files(path: Path, temp_dir: Path | None = None) -> Files:
    """Open a folder or an archive.

    Args:
        path: Folder, zip or tar.
        temp_dir: Where a compressed tar is unpacked; None = tars are not taken.
    """
    if path.is_dir():
        return Folder(path)
    return Zip(path) if temp_dir is None or zipfile.is_zipfile(path) else Tar(path, temp_dir)


def read_file(files: Files, name: str) -> bytes:
    """Contents of one file; errors as ``Files.open``."""
    with files.open(name) as file:
        return file.read()


def _plain_tar(path: Path, temp_dir: Path) -> IO[bytes]:
    """The archive as an open, uncompressed tar."""
    raw = path.open("rb")
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
    percent = 0
    with gzip.GzipFile(fileobj=raw) as file:
        while block := file.read(_BLOCK):
            plain.write(block)
            while percent < raw.tell() * 100 // size:
                percent += 1
                yield None
