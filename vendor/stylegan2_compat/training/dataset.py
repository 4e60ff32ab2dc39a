"""Training images from a folder or a zip file, with optional labels.

Images are uint8 arrays [C, H, W]; `dataset.json` beside them holds the labels.
"""

import io
import json
import os
import zipfile
from typing import Any

import numpy as np
import PIL.Image
from training.labelled_images import Dataset

try:
    import pyspng
except ImportError:
    pyspng = None

__all__ = ["Dataset", "ImageFolderDataset"]


class ImageFolderDataset(Dataset):
    """Images below a directory or in a zip file, sorted by relative path.

    Args:
        path: Directory, searched recursively, or `.zip` file.
        resolution: Expected height and width in pixels; None = that of the first image.
        **super_kwargs: max_size, use_labels, xflip and random_seed of `Dataset`.

    Raises:
        OSError: If path is neither of the two, holds no image, or the first image is unreadable or of another size.
    """

    def __init__(self, path: str, resolution: int | None = None, **super_kwargs: Any) -> None:
        self._path = path
        self._zip: zipfile.ZipFile | None = None
        self._zip_owner: int | None = None
        self._is_zip = not os.path.isdir(path) and _extension(path) == ".zip"
        if os.path.isdir(path):
            self._names = {
                os.path.relpath(os.path.join(folder, fname), start=path)
                for folder, _folders, fnames in os.walk(path)
                for fname in fnames
            }
        elif self._is_zip:
            self._names = set(self._open_zip().namelist())
        else:
            raise OSError(f"Expected argument `path` to be a directory or a .zip file, but got {path!r}")

        PIL.Image.init()
        self._image_names = sorted(fname for fname in self._names if _extension(fname) in PIL.Image.EXTENSION)
        if not self._image_names:
            raise OSError(f"No image files found in {path}")
        name = os.path.splitext(os.path.basename(os.path.normpath(path)))[0]
        raw_shape = [len(self._image_names), *self._load_raw_image(0).shape]
        if resolution is not None and raw_shape[2:] != [resolution, resolution]:
            raise OSError(
                f"Expected images of {resolution} x {resolution} pixels, "
                f"but got {raw_shape[2]} x {raw_shape[3]} from {self._image_source(0)}"
            )
        super().__init__(name=name, raw_shape=raw_shape, **super_kwargs)

    def _image_source(self, raw_idx: int) -> str:
        return os.path.join(self._path, self._image_names[raw_idx])

    def _open_zip(self) -> zipfile.ZipFile:
        # A forked worker shares the file position of its parent's handle, so each process opens its own.
        if self._zip is None or self._zip_owner != os.getpid():
            try:
                self._zip = zipfile.ZipFile(self._path)
            except zipfile.BadZipFile as error:
                raise OSError(f"Cannot read {self._path}: {error}") from error
            self._zip_owner = os.getpid()
        return self._zip

    def _read_file(self, fname: str) -> bytes:
        if self._is_zip:
            return self._open_zip().read(fname)
        with open(os.path.join(self._path, fname), "rb") as file:
            return file.read()

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        fname = self._image_names[raw_idx]
        try:
            content = self._read_file(fname)
            if pyspng is not None and _extension(fname) == ".png":
                image = pyspng.load(content)
            else:
                with PIL.Image.open(io.BytesIO(content)) as picture:
                    image = np.array(picture)
        except (OSError, SyntaxError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            # Pillow and the zip reader report damage with all of these types.
            raise OSError(f"Cannot read image {self._image_source(raw_idx)}: {error}") from error
        return image[np.newaxis] if image.ndim == 2 else image.transpose(2, 0, 1)  # HWC => CHW

    def _load_raw_labels(self) -> np.ndarray | None:
        if "dataset.json" not in self._names:
            return None
        where = os.path.join(self._path, "dataset.json")
        try:
            entries = json.loads(self._read_file("dataset.json"))["labels"]
            if entries is None:
                return None
            by_name = dict(entries)
            labels = np.array([by_name[fname.replace("\\", "/")] for fname in self._image_names])
        except KeyError as error:
            raise OSError(f"No entry {error} in {where}: every image needs a label") from error
        except (TypeError, ValueError) as error:
            raise OSError(f"Cannot read labels from {where}: {error}") from error
        kinds = {1: "iu", 2: "iuf"}.get(labels.ndim, "")
        if labels.dtype.kind not in kinds:
            raise OSError(f"Expected labels in {where} to be class indices or equally long lists of floats")
        return labels.astype(np.int64 if labels.ndim == 1 else np.float32)

    def close(self) -> None:
        """Close the zip file; it is opened again when needed."""
        if self._zip is not None and self._zip_owner == os.getpid():
            self._zip.close()
        self._zip = None

    def __getstate__(self) -> dict[str, Any]:
        return dict(super().__getstate__(), _zip=None)


def _extension(fname: str) -> str:
    return os.path.splitext(fname)[1].lower()
