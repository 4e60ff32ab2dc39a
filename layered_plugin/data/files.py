"""Names and contents of the files of a folder, a zip or tars (``tars``): the one place where they are opened."""

import functools
import lzma
import multiprocessing
import os
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import PIL.Image

from layered_plugin.data.places import Places
from layered_plugin.data.tars import Tar

# What Pillow and zipfile raise for files that are damaged, encrypted, missing, or too large to be honest.
UNREADABLE = (OSError, ValueError, SyntaxError, KeyError, EOFError, RuntimeError, MemoryError, zlib.error,
              lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, PIL.Image.DecompressionBombError)

# Pictures of phones, cameras and browsers that Pillow reads in some builds, or with a plug-in, or not at all.
FOREIGN = {".heic", ".heif", ".hif", ".avif", ".webp", ".jxl", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw",
           ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw"}

_MEMBER = np.dtype([("header_offset", np.int64), ("compress_size", np.int64), ("file_size", np.int64),
                    ("CRC", np.uint32), ("compress_type", np.uint16), ("flag_bits", np.uint16)])  # As in ZipInfo.


class Files(Protocol):
    """Files of a folder or archive."""

    def list_names(self) -> list[str]:
        """Sorted paths within it, such as ``sub/a.png``."""

    def open(self, name: str) -> IO[bytes]:
        """Open one of them. Raises KeyError or FileNotFoundError if there is none, ``UNREADABLE`` if it is damaged."""

    def size(self, name: str) -> int:
        """Bytes of one of them; errors as ``open``."""

    def contents(self, name: str) -> str:
        """What tells one's contents from others without reading it: its size, in a zip its checksum as well."""

    def changed(self, name: str) -> int:
        """When the file that holds it was last changed, in ns as ``stat`` has it; errors as ``open``.

        Of the inode: files that are unpacked, moved or restored keep an older time of their contents.
        """

    def close(self) -> None:
        """Close the archive."""


class Folder:
    """A folder, searched recursively, links to other folders included."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list_names(self) -> list[str]:
        return sorted(_below(self.path, "", [os.path.realpath(self.path)]))

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def contents(self, name: str) -> str:
        return str(self.size(name))

    def changed(self, name: str) -> int:
        return os.stat(f"{self.path}/{name}").st_ctime_ns

    def close(self) -> None:
        """There is nothing to close."""


class Zip:
    """A zip; it can be pickled, and is opened when it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._owner: int | None = None
        self._places = Places([], np.empty(0, _MEMBER))

    def archive(self) -> zipfile.ZipFile:
        """The open zip, without its own list of members; its file opened anew in a process that inherited this."""
        if self._zip is None:
            self._zip = zipfile.ZipFile(self.path)
            # Of a kilobyte each. A row has what is needed to read one.
            members = self._zip.NameToInfo.values()
            rows = np.fromiter(map(attrgetter(*_MEMBER.names or ()), members), _MEMBER, len(members))
            kept = np.fromiter((not info.is_dir() for info in members), bool, len(members))
            names = [info.filename for info in members if not info.is_dir()]
            self._zip.NameToInfo.clear()
            self._zip.filelist.clear()
            self._places = Places(names, rows[kept])
        elif self._owner != os.getpid():  # A forked process shares the file position of its parent.
            if self._zip.fp is not None:
                self._zip.fp.close()
            self._zip.fp = self.path.open("rb")
        self._owner = os.getpid()
        return self._zip

    def list_names(self) -> list[str]:
        self.archive()
        return self._places.names

    def _member(self, name: str) -> zipfile.ZipInfo:
        self.archive()
        info = zipfile.ZipInfo(name)
        for field, value in zip(_MEMBER.names or (), self._places[name].item(), strict=True):
            setattr(info, field, value)
        return info

    def open(self, name: str) -> IO[bytes]:
        return self.archive().open(self._member(name))

    def size(self, name: str) -> int:
        self.archive()
        return int(self._places[name]["file_size"])

    def contents(self, name: str) -> str:
        self.archive()
        row = self._places[name]
        return f"{row['file_size']} {row['CRC']}"

    def changed(self, name: str) -> int:
        return self.path.stat().st_ctime_ns

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()
            self._zip = None

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _zip=None)


def _below(folder: Path, prefix: str, roots: list[str]) -> Iterator[str]:
    """Files of a folder and its folders; much quicker than ``rglob`` where there are many.

    Of links to folders, those that lead into one of the roots or above it are left out: their files are found anyway.
    A link to a file that is gone is listed, so that who reads it says so.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                below = roots
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if any(os.path.commonpath([target, root]) in (target, root) for root in roots):
                        continue
                    below = [*roots, target]
                yield from _below(folder / entry.name, f"{prefix}{entry.name}/", below)
            elif entry.is_file() or entry.is_symlink():
                yield prefix + entry.name


def is_picture_name(name: str) -> bool:
    """Whether a file's name has the suffix of a format that Pillow reads; PDF it only writes."""
    # Data sets made on a Mac carry a shadow of every file.
    hidden = name.startswith("__MACOSX/") or name.startswith("._", name.rfind("/") + 1)
    file_format = PIL.Image.registered_extensions().get(_suffix(name))
    return file_format in PIL.Image.OPEN and not hidden


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def count_foreign(names: Iterable[str]) -> str:
    """How many files are pictures that can't be read here, by suffix, and what to do; empty if none is.

    Hidden files and folders do not count.
    """
    counts = Counter(_suffix(name) for name in names if _suffix(name) in FOREIGN and not is_picture_name(name)
                     and not name.startswith((".", "__MACOSX/")) and "/." not in name)
    kinds = ", ".join(f"{num} {suffix}" for suffix, num in sorted(counts.items()))
    return f"{kinds}, which can't be read: convert them to JPEG or PNG" if counts else ""


def warn_of_foreign(path: Path, names: Iterable[str]) -> None:
    """Say once in a command, however many of its processes list the files, which pictures among them are left out."""
    foreign = count_foreign(names)
    if foreign and multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":
        _warn(f"{path}: left out {foreign}")


@functools.cache  # A command lists the same files more than once.
def _warn(text: str) -> None:
    print(f"WARNING: {text}", file=sys.stderr)


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
