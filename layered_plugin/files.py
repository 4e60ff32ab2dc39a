"""Files that appear under their names only when they are whole."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a file for writing bytes that appears under its name only when it is whole.

    Written beside its destination, flushed to the disk, then moved into place. On any failure the temporary file is
    removed and what was there before stays.
    """
    path = Path(path)
    handle, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temp, 0o644)
        os.replace(temp, path)
    except BaseException:
        Path(temp).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write indented JSON to a file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(data, indent=2).encode())
