"""Tars, read at random: one, or a folder of them as WebDataset writes them."""

import gzip
import io
import os
import tarfile
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from layered_plugin.data.places import Places
from layered_plugin.errors import PictureError
from layered_plugin.progress import progress

_BLOCK = 1 << 20

_PLACE = np.dtype([("tar", np.int64), ("offset", np.int64), ("size", np.int64)])


class _Tars:
    """What is known of the files of one or several tars."""

    _places: Places

    def list_names(self) -> list[str]:
        return self._places.names

    def size(self, name: str) -> int:
        return int(self._places[name]["size"])

    def contents(self, name: str) -> str:
        return str(self.size(name))


class Tar(_Tars):
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
        self._changed = path.stat().st_ctime_ns
        self._plain = _plain_tar(path, temp_dir)
        try:
            self._places = _places([self._plain])
        except BaseException:
            self._plain.close()
            raise

    def open(self, name: str) -> IO[bytes]:
        _tar, offset, size = self._places[name].item()
        # At a place of its own: processes that inherit an open file share its position.
        data = os.pread(self._plain.fileno(), size, offset)
        if len(data) < size:
            raise EOFError(f"the tar ends within {name}")
        return io.BytesIO(data)

    def changed(self, name: str) -> int:
        return self._changed

    def close(self) -> None:
        self._plain.close()

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _plain=None)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _plain=self.path.open("rb"))


class Shards(_Tars):
    """The uncompressed tars of a folder as one, such as WebDataset's; names are ``shard.tar/name within``.

    tarfile.TarError, with its name, if one of them is no tar, compressed or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards = sorted(shard.name for shard in path.glob("*.tar"))
        self._changed = [(path / shard).stat().st_ctime_ns for shard in self._shards]
        self._places = _places(_one_by_one(path / shard for shard in self._shards),
                               [f"{shard}/" for shard in self._shards])

    def open(self, name: str) -> IO[bytes]:
        number, offset, size = self._places[name].item()
        shard = self._shards[number]
        with (self.path / shard).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise EOFError(f"{shard} ends within it")
        return io.BytesIO(data)

    def changed(self, name: str) -> int:
        return self._changed[self._places[name]["tar"]]

    def close(self) -> None:
        """Each tar is open while a file of it is read."""


def sample_key(file: str) -> str:
    """Key of a sample in WebDataset's layout: what stands behind a name's first dot would be its extension there."""
    path = PurePosixPath(file)
    return str(path.with_name(path.name.replace("%", "%25").replace(".", "%2E")))


def sample_file(key: str) -> str:
    """The file whose `sample_key` it is."""
    path = PurePosixPath(key)
    return str(path.with_name(path.name.replace("%2E", ".").replace("%25", "%")))


def _one_by_one(paths: Iterable[Path]) -> Iterator[IO[bytes]]:
    for path in paths:
        with path.open("rb") as file:
            yield file


def _places(files: Iterable[IO[bytes]], prefixes: Sequence[str] = ("",)) -> Places:
    """Files in some uncompressed tars, each by its number, offset and size in bytes; names with that tar's prefix."""
    names, numbers = [], array("q")
    for number, file in enumerate(files):
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for name, offset, size in _members(tar, file):
                    names.append(prefixes[number] + name.removeprefix("./"))
                    numbers.extend((number, offset, size))
        except tarfile.TarError as err:
            raise tarfile.ReadError(f"{prefixes[number].replace('/', ': ')}{err}") from err
    return Places(names, np.frombuffer(numbers, _PLACE) if numbers else np.empty(0, _PLACE))


def _members(tar: tarfile.TarFile, file: IO[bytes]) -> Iterator[tuple[str, int, int]]:
    """Name, place and size of each file. What is plain is read here, in a fifth of the time that `tarfile` takes."""
    if tar.offset == 0:  # type: ignore[attr-defined]
        file.seek(0)  # There is no first file; elsewhere, Python 3.10 would seek in front of the archive.
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # Of a kilobyte each.
        if member.isfile():
            yield member.name, member.offset_data, member.size
        while not tar.pax_headers:  # These hold for all that follow.
            file.seek(tar.offset)  # type: ignore[attr-defined]
            plain = _plain_member(file.read(tarfile.BLOCKSIZE))
            if plain is None:
                file.seek(0)  # Elsewhere than at the offset, for which `tarfile` sees whether the tar goes on there.
                break
            name, size = plain
            offset = tar.offset + tarfile.BLOCKSIZE  # type: ignore[attr-defined]
            yield name, offset, size
            tar.offset = offset + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE  # type: ignore[attr-defined]
    file.seek(tar.offset)  # type: ignore[attr-defined]
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # `tarfile` takes a damaged header for the end.
        raise tarfile.ReadError(f"damaged at byte {tar.offset}")  # type: ignore[attr-defined]


def _plain_member(header: bytes) -> tuple[str, int] | None:
    """Name and size by a header of the ustar format or GNU's; None for all but plain files, the end, and damage."""
    magic, prefix = header[257:265], header[345:500].partition(b"\0")[0]
    if header[156:157] != tarfile.REGTYPE or magic not in (tarfile.POSIX_MAGIC, tarfile.GNU_MAGIC):
        return None
    try:
        size, checksum = (int(field.partition(b"\0")[0], 8) for field in (header[124:136], header[148:156]))
    except ValueError:  # GNU has another way for sizes of 8 GB and more.
        return None
    if size < 0 or checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        return None
    path = header[:100].partition(b"\0")[0]
    return (prefix + b"/" + path if prefix else path).decode(tarfile.ENCODING, "surrogateescape"), size


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
