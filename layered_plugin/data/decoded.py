"""Decoded pictures of a data set in one file that all processes and later runs map into memory.

A file is named by what it was made of, so that changed data get another one. The folder may be emptied at any time:
`rm -r ~/.cache/layered-plugin`.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock

from layered_plugin.data.files import UNREADABLE, Zip
from layered_plugin.data.fingerprint import of_source
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import DiskFullError, PictureError, UserError, raising
from layered_plugin.files import atomic_write

SHARED_FROM = 64 << 20  # Smaller data sets are decoded sooner than it would matter, and are not kept.
SPARE = 0.1  # Of the disk stays free.
UNUSABLE = (errno.EROFS, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # Disks without writing, or without locks.

_ENV = "LAYERED_CACHE"


def cache_folder() -> Path | None:
    """Where decoded pictures are kept: LAYERED_CACHE, else in the user's cache.

    None if it is set to nothing, or if it is not set and the user has no home.

    UserError if LAYERED_CACHE begins with the home of a user who has none.
    """
    named = os.environ.get(_ENV)
    try:
        if named is not None:
            return Path(named).expanduser() if named else None
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layered-plugin"
    except RuntimeError as err:
        if named is None:
            return None
        raise UserError(f"{_ENV}={named}: {err} Name another folder, or set it to nothing to keep none") from err


def shared_pictures(source: PictureSource, sizes: list[int], used: list[int], num: int,
                    decode: Callable[[Iterable[int]], Iterable[np.ndarray]]) -> np.ndarray | None:
    """All pictures of a data set, decoded now or by an earlier process.

    Args:
        source: Folder or archive.
        sizes: Sides that they are brought to, one after the other.
        used: Positions of those that are wanted, ascending; the others are holes.
        num: Number of pictures.
        decode: Gives the pictures at some positions, [3, S, S] each, uint8.

    Returns:
        [num, 3, S, S], uint8, mapped read-only; None where there is no folder or no room for it.
    """
    folder, shape = cache_folder(), (num, 3, sizes[-1], sizes[-1])
    num_bytes = int(np.prod(shape, dtype=np.int64))
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{_key(source, sizes, used)}.uint8"
        with FileLock(file.with_suffix(".lock")):  # Others of this run wait, and then find it.
            if not file.is_file() or file.stat().st_size != num_bytes:  # A damaged disk may have cut it off.
                if shutil.disk_usage(folder).free * (1 - SPARE) < num_bytes:
                    return None
                _write(file, shape, used, decode)
    except (DiskFullError, PermissionError):
        return None
    except OSError as err:
        if err.errno not in UNUSABLE:
            raise
        return None
    os.utime(file)  # So that the files of data no longer used are known by their time.
    return np.asarray(np.memmap(file, np.uint8, "r", shape=shape))


def _write(file: Path, shape: tuple[int, ...], used: list[int],
           decode: Callable[[Iterable[int]], Iterable[np.ndarray]]) -> None:
    for leftover in file.parent.glob(f".{file.name}.*"):  # Of a process that was killed: the lock was free.
        leftover.unlink(missing_ok=True)
    row = int(np.prod(shape[1:], dtype=np.int64))
    with atomic_write(file, row * shape[0]) as out:
        for position, picture in zip(used, decode(used), strict=True):
            out.seek(position * row)
            out.write(np.ascontiguousarray(picture).data)
        out.truncate(row * shape[0])


def _key(source: PictureSource, sizes: list[int], used: list[int]) -> str:
    described: dict[str, Any] = dict(data=of_source(source), sizes=sizes, pillow=PIL.__version__)
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    if not isinstance(source.files, Zip):  # Its checksums say more, and stay when it is copied.
        with raising(PictureError, f"{source.path}: not readable", *UNREADABLE):
            digest.update(np.fromiter(map(source.files.changed, source.names), np.int64).tobytes())
    digest.update(np.array(used, np.int64).tobytes())
    return f"{source.path.stem[:40]}-{sizes[-1]}px-{digest.hexdigest()[:16]}"
