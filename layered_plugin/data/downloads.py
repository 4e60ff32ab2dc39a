"""Archives as downloaded, packed or unpacked, and the pictures that data sets are made of."""

import contextlib
import io
import os
import sys
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image

from layered_plugin.data.files import UNREADABLE, open_files, read_file, warn_of_foreign
from layered_plugin.data.masks import square_mask
from layered_plugin.data.picture_zip import PictureZipWriter
from layered_plugin.data.pictures import decode, square_picture
from layered_plugin.errors import PictureError
from layered_plugin.progress import progress


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
    """Names and contents of the files of a download: a folder, a zip or a tar archive.

    Args:
        path: Folder or archive.
        temp_dir: Folder on a disk that has room for a compressed tar, which is unpacked for as long as it is read.

    Raises:
        PictureError: It is none of these, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str], temp_dir: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._files = open_files(self.path, Path(temp_dir))
            self.names = self._files.list_names()
        except tarfile.TarError as err:
            raise PictureError(f"{self.path}: neither a folder nor a whole zip or tar archive ({err}); "
                               "if it was downloaded, download it again") from err
        except UNREADABLE as err:
            raise PictureError(f"{self.path}: cannot be read ({err})") from err
        warn_of_foreign(self.path, self.names)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_error: object) -> None:
        self._files.close()

    def read(self, name: str) -> bytes:
        """Contents of one of ``names``; PictureError if it can't be read."""
        try:
            return read_file(self._files, name)
        except (*UNREADABLE, tarfile.TarError) as err:
            raise PictureError(f"{self.path}: cannot read {name} ({err})") from err

    def by_ending(self, num_parts: int) -> dict[str, str]:
        """Names by their last parts, such as ``images.txt`` for 1, wherever they were packed or unpacked.

        Where several end alike, the one that lies least deep counts.
        """
        names = sorted(self.names, key=lambda name: -name.count("/"))
        return {"/".join(PurePosixPath(name).parts[-num_parts:]): name for name in names}


@dataclass(frozen=True)
class Entry:
    """One picture of a data set."""

    name: str  # For messages.
    load: Callable[[], tuple[PIL.Image.Image, np.ndarray | None]]  # Picture; mask [H, W], bool. Raises PictureError.
    label: int | None = None  # Class number from 0 on.


def decode_bytes(data: bytes, name: str, upright: bool = False) -> PIL.Image.Image:
    """Decode an encoded picture of any format; PictureError, with its name, if it can't be decoded.

    If upright, it is turned as its EXIF orientation says; annotations are of the unturned picture.
    """
    try:
        return decode(io.BytesIO(data), upright)
    except UNREADABLE as err:
        raise PictureError(f"{name}: unreadable ({err})") from err


def write_entries(entries: Iterable[Entry], total: int, dest: str, masks: str | None, size_px: int, fit: str) -> None:
    """Write pictures, and masks under the same names; files appear only when complete.

    A picture that can't be read, or whose mask does not fit it, is left out and named on standard error.

    Args:
        entries: Pictures, with masks if `masks` is given.
        total: How many there are.
        dest: Zip for the pictures.
        masks: Zip for the masks, None = none.
        size_px: Side of the pictures.
        fit: One of `pictures.FITS`.

    Raises:
        PictureError: Not one could be used; nothing is written.
        OSError: A zip can't be written.
    """
    written, share, left_out = 0, 0.0, []
    with contextlib.ExitStack() as stack:
        pictures = stack.enter_context(PictureZipWriter(dest))
        mask_writer = stack.enter_context(PictureZipWriter(masks)) if masks else None
        for entry in progress(entries, total, "pictures"):
            try:
                picture, mask = entry.load()
            except PictureError as err:
                left_out.append(str(err))
                print(f"left out {err}", file=sys.stderr)
                continue
            pictures.add(square_picture(picture, size_px, fit), entry.label)
            if mask_writer is not None and mask is not None:
                small = square_mask(mask, size_px, fit)
                mask_writer.add(small)
                share += float(small.mean()) / 255
            written += 1
        if written == 0:
            raise PictureError(f"none of {total} pictures can be used, the first because: {(left_out or ['?'])[0]}")
    about = f", object share {share / written:.3f}" if masks else ""
    print(f"{written} pictures{about}, {len(left_out)} left out", file=sys.stderr)
