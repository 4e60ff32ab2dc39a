"""Write and read data sets in the host's format: numbered PNG files in a stored zip with `dataset.json`.

The same format holds pictures (RGB) and their masks (8-bit gray, 255 = object) under equal file names.
"""

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import click
import numpy as np
from PIL import Image, UnidentifiedImageError

# The earliest time a zip can hold: a fixed one makes equal input give equal bytes.
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)


class PictureZipWriter:
    """Write pictures to a zip that appears under its name only when complete.

    Use as a context manager; when the block raises, nothing is left behind and an older file stays as it was.
    """

    def __init__(self, dest: str | os.PathLike[str]) -> None:
        """Open a temporary file beside the destination.

        Args:
            dest: Path of the zip; its folder is made if missing.

        Raises:
            ValueError: If `dest` does not end in .zip.
        """
        self.dest = Path(dest)
        if self.dest.suffix.lower() != ".zip":
            raise ValueError(f"Expected argument `dest` to be a path ending in .zip, but got {str(dest)!r}")
        self.dest.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.dest.with_name(f".{self.dest.name}.{os.getpid()}.part")
        self._zip = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_STORED)
        self._labels: list[tuple[str, int | list[float] | None]] = []

    def __enter__(self) -> "PictureZipWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        else:
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
            raise ValueError(
                "Expected argument `picture` to be uint8 [H, W, 3] or [H, W], "
                f"but got {picture.dtype} {list(picture.shape)}"
            )
        number = f"{len(self._labels):08d}"
        name = f"{number[:5]}/img{number}.png"
        data = io.BytesIO()
        Image.fromarray(picture).save(data, format="png", compress_level=0, optimize=False)
        self._write(name, data.getvalue())
        self._labels.append((name, label))
        return name

    def _write(self, name: str, data: bytes) -> None:
        self._zip.writestr(zipfile.ZipInfo(name, date_time=_FIXED_TIME), data)

    def _finish(self) -> None:
        # The host needs a label for every picture, or none at all.
        labelled = bool(self._labels) and all(label is not None for _, label in self._labels)
        text = json.dumps({"labels": [list(entry) for entry in self._labels] if labelled else None})
        self._write("dataset.json", text.encode())
        self._zip.close()
        os.replace(self._partial, self.dest)


def check_zips(paths: Mapping[str, str | None]) -> dict[str, str]:
    """Check the options of a command that name zips to be written.

    Args:
        paths: Option to path, None = not given.

    Returns:
        Those that are given.

    Raises:
        click.UsageError: A path does not end in .zip, or two are the same.
    """
    given: dict[str, str] = {}
    for option, path in paths.items():
        if path is None:
            continue
        if not path.lower().endswith(".zip"):
            raise click.UsageError(f"{option} must end in .zip, got {path}")
        for other in given:
            if Path(given[other]).resolve() == Path(path).resolve():
                raise click.UsageError(f"{option} must differ from {other}, got {path} for both")
        given[option] = path
    return given


def picture_names(archive: zipfile.ZipFile) -> list[str]:
    """List the PNG files of a data set in the host's order (sorted by name)."""
    return sorted(name for name in archive.namelist() if name.lower().endswith(".png"))


def iter_pairs(
    pictures: str | os.PathLike[str], masks: str | os.PathLike[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Read pictures and their masks one pair at a time.

    Args:
        pictures: Zip of pictures.
        masks: Zip of masks with the same file names.

    Returns:
        Triples of name, picture [3, H, W] and mask [H, W], both uint8.

    Raises:
        ValueError: If a file is no zip, holds no pictures, or the two do not match; the text names the file.
    """
    with _open_zip(pictures) as picture_file, _open_zip(masks) as mask_file:
        names = picture_names(picture_file)
        if not names:
            raise ValueError(f"{pictures}: holds no PNG files")
        if names != picture_names(mask_file):
            raise ValueError(f"{masks}: file names differ from those of {pictures}")
        for name in names:
            picture = _read_png(picture_file, name, "RGB", pictures)
            mask = _read_png(mask_file, name, "L", masks)
            if picture.shape[:2] != mask.shape:
                raise ValueError(f"{masks}: {name} is {list(mask.shape)}, its picture {list(picture.shape[:2])}")
            yield name, picture.transpose(2, 0, 1), mask


def read_pairs(
    pictures: str | os.PathLike[str], masks: str | os.PathLike[str], max_num: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read pictures and masks of one size into memory.

    Args:
        pictures: Zip of pictures.
        masks: Zip of masks with the same file names.
        max_num: Stop after this many pairs, None = all.

    Returns:
        Pictures [N, 3, H, W] and masks [N, H, W], both uint8, in the order of their names.

    Raises:
        ValueError: As `iter_pairs`, or if sizes vary or `max_num` is below 1.
    """
    if max_num is not None and max_num < 1:
        raise ValueError(f"Expected argument `max_num` to be None or at least 1, but got {max_num}")
    all_pictures: list[np.ndarray] = []
    all_masks: list[np.ndarray] = []
    for name, picture, mask in iter_pairs(pictures, masks):
        if all_masks and mask.shape != all_masks[0].shape:
            raise ValueError(f"{pictures}: {name} is {list(mask.shape)}, the first one {list(all_masks[0].shape)}")
        all_pictures.append(picture)
        all_masks.append(mask)
        if len(all_masks) == max_num:
            break
    return np.stack(all_pictures), np.stack(all_masks)


def _open_zip(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as a zip ({error})") from error


def _read_png(archive: zipfile.ZipFile, name: str, mode: str, path: str | os.PathLike[str]) -> np.ndarray:
    try:
        with archive.open(name) as file, Image.open(file) as picture:
            return np.asarray(picture.convert(mode))
    except (OSError, zipfile.BadZipFile, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: {name} cannot be read ({error})") from error
