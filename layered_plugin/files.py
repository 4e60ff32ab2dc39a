"""Files that appear under their names only when they are whole; what a killed process leaves of them; full disks."""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

from layered_plugin.errors import DiskFullError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

NAME_BYTES = 255  # Of a file or folder, on every system in use.

_PREFIX_BYTES = 120  # Of a file's own name in that of its temporary file: names have at most 255 bytes.


@contextmanager
def atomic_write(path: str | os.PathLike, needed: int | None = None) -> Iterator[IO[bytes]]:
    """Open a file for writing bytes that appears under its name only when it is whole.

    Written beside its destination, flushed to the disk, then moved into place. On any failure the temporary file is
    removed and what was there before stays.

    Args:
        path: The destination.
        needed: About how many bytes it will have, for the error.

    Raises:
        DiskFullError: There is no room.
    """
    path = Path(path)
    start = path.name.encode(errors="replace")[:_PREFIX_BYTES].decode(errors="ignore")
    temp, size = path.parent / f".{start}.{secrets.token_hex(4)}", 0
    try:
        with open(temp, "xb") as file:  # Not tempfile's, which nobody else may read, whatever the umask.
            try:
                yield file
            finally:
                size = os.fstat(file.fileno()).st_size
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException as err:
        temp.unlink(missing_ok=True)
        if isinstance(err, OSError) and err.errno in NO_ROOM:
            raise disk_full(path, needed or size) from err
        raise


def disk_full(path: str | os.PathLike[str], needed: int = 0) -> DiskFullError:
    """What to say of a file for which there is no room; it takes at least `needed` bytes, 0 = not known."""
    folder = Path(path).absolute().parent
    free = shutil.disk_usage(folder).free
    need = f"at least {needed / 1e6:.1f} MB are needed, " if needed >= 50_000 else ""
    return DiskFullError(f"{path}: no room in {folder}: {need}{free / 1e6:.1f} MB are free (or a quota is used up); "
                         "make room and go on")


@contextmanager
def room_for(path: str | os.PathLike[str], partial: Path | None = None) -> Iterator[None]:
    """Name a file that is open, and written to here, if there is no room; raises DiskFullError.

    `partial` is the file that stands in for it until it is whole, of whose size at least it will be.
    """
    try:
        yield
    except OSError as err:
        if err.errno in NO_ROOM:
            raise disk_full(path, 0 if partial is None else partial.stat().st_size) from err
        raise


class _Watched:
    """A file that remembers why it could not be written: torch.save hides the error behind one of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as err:
            self.error = err
            raise

    def flush(self) -> None:
        self.file.flush()


def write_watched(path: str | os.PathLike[str], save: Callable[[Any], Any], needed: int) -> None:
    """Let a library write a file, whole or not at all, whatever it makes of an error of the system.

    `save` is called with the open file, which will have about `needed` bytes. DiskFullError if there is no room,
    OSError if it can't be written.
    """
    with atomic_write(path, needed) as file:
        watched = _Watched(file)
        try:
            save(watched)
        except Exception:
            if watched.error is not None:
                raise watched.error from None
            raise


def lock(file: IO[Any] | int) -> bool:
    """Lock an open file, or the number of one or of a folder, until it is closed or this process ends.

    False if others have locked it. True as well where the system or the disk has no locks. Unlike filelock's, it leaves
    no file behind: run folders and results hold what users look for.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        return not isinstance(err, BlockingIOError)
    return True


def unlock(file: IO[Any] | int) -> None:
    """Give up a lock, also for processes that were forked from this one since."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write indented JSON to a file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(data, indent=2).encode())


def remove_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what a killed process left of ``atomic_write`` in a folder that is its own; returns their names."""
    found = [path for path in Path(folder).glob(".*.*")
             if path.is_file() and re.fullmatch(r"\..+\.[a-z0-9_]{8}", path.name)]
    for path in found:
        path.unlink(missing_ok=True)
    return [path.name for path in found]


def cut_torn_line(path: str | os.PathLike[str]) -> None:
    """Cut off a last line without an end: its process was killed, or the disk full, while it was written.

    Where only its end is missing, as some editors leave it, it gets one: what is a whole JSON object is no part of one.
    """
    path = Path(path)
    if not path.is_file():
        return
    with open(path, "rb+") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - (1 << 16))
            file.seek(start)
            last = file.read(end - start).rfind(b"\n")
            if last >= 0:
                end = start + last + 1
                break
            end = start
        if end < size:
            file.seek(end)
            if _is_object(file.read()):
                file.write(b"\n")
            else:
                file.truncate(end)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append to a file of JSON lines, which may end in a torn one (``cut_torn_line``)."""
    cut_torn_line(path)
    with open(path, "ab") as file:
        file.write(line.encode() + b"\n")
