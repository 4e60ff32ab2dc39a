"""Write data sets in the host's format: numbered PNG files in a stored zip with `dataset.json`.

The same format holds pictures (RGB) and their masks (8-bit gray, 255 = object) under equal file names.
"""

import io
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from layered_plugin.files import room_for

# The earliest time a zip can hold: a fixed one makes equal input give equal bytes.
FIXED_TIME = (1980, 1, 1, 0, 0, 0)

ABANDONED_SECONDS = 3600


class PictureZipWriter:
    """Write pictures to a zip that appears under its name only when complete.

    Use as a context manager; when the block raises, nothing is left behind and an older file stays as it was.

    Args:
        dest: Path of the zip; its folder is made if missing.

    Raises:
        ValueError: If `dest` does not end in .zip.
    """

    def __init__(self, dest: str | os.PathLike[str]) -> None:
        self.dest = Path(dest)
        if self.dest.suffix.lower() != ".zip":
            raise ValueError(f"Expected argument `dest` to be a path ending in .zip, but got {str(dest)!r}")
        self.dest.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self.dest)
        self._partial = self.dest.with_name(f".{self.dest.name}.{os.getpid()}.part")
        self._zip = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_STORED)
        self._labels: list[tuple[str, int | list[float] | None]] = []

    def __enter__(self) -> "PictureZipWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        try:
            if kind is None:
                self.complete()
                os.replace(self._partial, self.dest)
        finally:
            with suppress(OSError, ValueError):  # The last writes may fail as others did.
                self._zip.close()
            self._partial.unlink(missing_ok=True)

    def add(self, picture: np.ndarray, label: int | list[float] | None = None) -> str:
        """Append one picture.

        Args:
            picture: [H, W, 3] colour or [H, W] gray, uint8.
            label: Class number, list of floats, or None for an unlabelled set.

        Returns:
            Name inside the zip, for example `00000/img00000000.png`.

        Raises:
            ValueError: If the picture has another shape or type.
        """
        colour = picture.ndim == 3 and picture.shape[2] == 3
        if picture.dtype != np.uint8 or not (colour or picture.ndim == 2):
            raise ValueError("Expected argument `picture` to be uint8 [H, W, 3] or [H, W], "
                             f"but got {picture.dtype} {list(picture.shape)}")
        number = f"{len(self._labels):08d}"
        name = f"{number[:5]}/img{number}.png"
        data = io.BytesIO()
        Image.fromarray(picture).save(data, format="png", compress_level=0, optimize=False)
        self._write(name, data.getvalue())
        self._labels.append((name, label))
        return name

    def _write(self, name: str, data: bytes) -> None:
        with room_for(self.dest, self._partial):
            self._zip.writestr(zipfile.ZipInfo(name, date_time=FIXED_TIME), data)

    def complete(self) -> None:
        """Write what comes last; the zip stays under its temporary name. Called again it does nothing."""
        if self._zip.fp is None:
            return
        # The host needs a label for every picture, or none at all.
        labelled = bool(self._labels) and all(label is not None for _, label in self._labels)
        text = json.dumps({"labels": [list(entry) for entry in self._labels] if labelled else None})
        self._write("dataset.json", text.encode())
        with room_for(self.dest, self._partial):
            self._zip.close()


def _remove_abandoned(dest: Path) -> None:
    """Remove what killed processes have left of this zip: temporary files that nobody has written to for a while."""
    for path in dest.parent.iterdir():
        match = re.fullmatch(re.escape(f".{dest.name}.") + r"\d+\.part", path.name)
        if match and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
            path.unlink(missing_ok=True)


@contextmanager
def picture_zips(paths: Mapping[str, str | os.PathLike[str] | None]) -> Iterator[dict[str, PictureZipWriter]]:
    """Writers by name for those of the paths that are given; the zips appear together, when all are complete."""
    with ExitStack() as stack:
        writers = {name: stack.enter_context(PictureZipWriter(path))
                   for name, path in paths.items() if path is not None}
        yield writers
        for writer in writers.values():
            writer.complete()
