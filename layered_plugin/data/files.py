"""Names and contents of the files of a folder, a zip or a tar archive: the one place where they are opened."""

import gzip
import io
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
              lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, PIL.Image.DecompressionBombError)

_BLOCK = 1 << 20


class Files(Protocol):
    """Files of a folder or archive."""

    def list_names(self) -> list[str]:
        """Sorted paths within it, such as ``sub/a.png``."""

    def open(self, name: str) -> IO[bytes]:
        """Open one of them. Raises KeyError or FileNotFoundError if there is none, ``UNREADABLE`` if it is damaged."""

    def size(self, name: str) -> int:
        """Bytes of one of them; errors as ``open``."""

    def close(self) -> None:
        """Close the archive."""


class Folder:
    """A folder, searched recursively."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list_names(self) -> list[str]:
        return sorted(_below(self.path, ""))

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

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

    def size(self, name: str) -> int:
        return self.archive().getinfo(name).file_size

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()
            self._zip = None

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _zip=None)


class Tar:
    """A tar; a compressed one can't be read at random, so it is unpacked once into a nameless temporary file.

    One that is not compressed can be pickled.

    Args:
        path: The archive.
        temp_dir: Folder on a disk that has room for the unpacked tar; None = a compressed one is not taken.

    Raises:
        PictureError: It is damaged, or can't be unpacked.
        tarfile.TarError: It is no tar.
    """

    def __init__(self, path: Path, temp_dir: Path | None) -> None:
        self.path = path
        self._plain = _plain_tar(path, temp_dir)
        try:
            self._places = dict(_places(self._plain))
        except BaseException:
            self._plain.close()
            raise

    def list_names(self) -> list[str]:
        return sorted(self._places)

    def open(self, name: str) -> IO[bytes]:
        offset, size = self._places[name]
        # At a place of its own: processes that inherit an open file share its position.
        data = os.pread(self._plain.fileno(), size, offset)
        if len(data) < size:
            raise EOFError(f"the tar ends within {name}")
        return io.BytesIO(data)

    def size(self, name: str) -> int:
        return self._places[name][1]

    def close(self) -> None:
        self._plain.close()

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _plain=None)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _plain=self.path.open("rb"))


class Shards:
    """The uncompressed tars of a folder as one, such as WebDataset's; names are ``shard.tar/name within``.

    Args:
        path: The folder.

    Raises:
        tarfile.TarError: One of them is no tar, or compressed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[str, int, int]] = {}
        for shard in sorted(path.glob("*.tar")):
            with shard.open("rb") as file:
                self._places.update((f"{shard.name}/{name}", (shard.name, *place)) for name, place in _places(file))

    def list_names(self) -> list[str]:
        return sorted(self._places)

    def open(self, name: str) -> IO[bytes]:
        shard, offset, size = self._places[name]
        with (self.path / shard).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise EOFError(f"{shard} ends within it")
        return io.BytesIO(data)

    def size(self, name: str) -> int:
        return self._places[name][2]

    def close(self) -> None:
        """Each tar is open while a file of it is read."""


def _places(file: IO[bytes]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names of the files in an uncompressed tar, each with its offset and size in bytes."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            if member.isfile():
                yield member.name.removeprefix("./"), (member.offset_data, member.size)
            tar.members.clear()  # type: ignore[attr-defined]  # Of a kilobyte each.


def _below(folder: Path, prefix: str) -> Iterator[str]:
    """Files of a folder and its folders, linked ones left out; much quicker than ``rglob`` where there are many."""
    with os.scandir(folder) as found:
        for item in found:
            if item.is_dir(follow_symlinks=False):
                yield from _below(folder / item.name, f"{prefix}{item.name}/")
            elif item.is_file():
                yield prefix + item.name


def is_picture_name(name: str) -> bool:
    """Whether a file's name has the suffix of a format that Pillow knows."""
    # Data sets made on a Mac carry a shadow of every file.
    hidden = name.startswith("__MACOSX/") or os.path.basename(name).startswith("._")
    return os.path.splitext(name)[1].lower() in PIL.Image.registered_extensions() and not hidden


def open_files(path: Path, temp_dir: Path | None = None) -> Files:
    """Open a folder or an archive.

    Args:
        path: Folder, zip or tar.
        temp_dir: Where a compressed tar is unpacked; None = none is taken, and tars must be named so.
    """
    if path.is_dir():
        return Folder(path)
    is_tar = not zipfile.is_zipfile(path) if temp_dir is not None else path.suffix == ".tar"
    return Tar(path, temp_dir) if is_tar else Zip(path)


def read_file(files: Files, name: str) -> bytes:
    """Contents of one file; errors as ``Files.open``."""
    with files.open(name) as file:
        return file.read()


def _plain_tar(path: Path, temp_dir: Path | None) -> IO[bytes]:
    """The archive as an open, uncompressed tar."""
    raw = path.open("rb")
    if raw.read(2) != b"\x1f\x8b":
        raw.seek(0)
        return raw
    with raw:
        if temp_dir is None:
            raise PictureError(f"{path}: is compressed, and can't be read at random; unpack it first")
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
