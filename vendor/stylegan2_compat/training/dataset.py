"""Training images from a folder or a zip file, with optional labels.

Images are uint8 arrays [C, H, W]; `dataset.json` beside them holds the labels.
"""

import io
import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import dnnlib
import numpy as np
import PIL.Image
import torch

try:
    import pyspng
except ImportError:
    pyspng = None


class Dataset(torch.utils.data.Dataset):
    """Indexed images with labels; subclasses load the raw data.

    An item is (image, label): a uint8 copy [C, H, W] and a float32 vector, of length 0 without labels.

    Args:
        name: Name of the data set.
        raw_shape: [number of images, C, H, W].
        max_size: Number of images to keep, chosen by random_seed; None = all.
        use_labels: Load labels? False = zero-length labels.
        xflip: Add a mirrored copy of each image, after max_size was applied.
        random_seed: Seed of the choice for max_size.

    Raises:
        ValueError: If raw_shape has not four entries or max_size is negative.
    """

    def __init__(
        self,
        name: str,
        raw_shape: Sequence[int],
        max_size: int | None = None,
        use_labels: bool = False,
        xflip: bool = False,
        random_seed: int = 0,
    ) -> None:
        if len(raw_shape) != 4:
            raise ValueError(f"Expected argument `raw_shape` to be [num, C, H, W], but got {list(raw_shape)}")
        if max_size is not None and max_size < 0:
            raise ValueError(f"Expected argument `max_size` to be at least 0, but got {max_size}")
        self._name = name
        self._stored_shape = list(raw_shape)
        self._use_labels = use_labels
        self._label_cache: np.ndarray | None = None
        self._label_size: list[int] | None = None

        # One entry per item: (index of the raw image, mirrored?).
        chosen = _choose_images(self._stored_shape[0], max_size, random_seed)
        passes = [False, True] if xflip else [False]
        self._entries = [(raw_idx, mirrored) for mirrored in passes for raw_idx in chosen]

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        """To override: return image raw_idx, uint8 [C, H, W]."""
        raise NotImplementedError

    def _load_raw_labels(self) -> np.ndarray | None:
        """To override: return int64 classes [num], float32 vectors [num, dim], or None."""
        raise NotImplementedError

    def _image_source(self, raw_idx: int) -> str:
        """Name an image in an error message."""
        return f"image {raw_idx} of {self._name}"

    def close(self) -> None:
        """To override: release files. The data set stays usable."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__, _label_cache=None)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        raw_idx, mirrored = self._entries[idx]
        image = self._load_raw_image(raw_idx)
        if list(image.shape) != self.image_shape or image.dtype != np.uint8:
            raise OSError(
                f"Expected uint8 images of shape {self.image_shape} as the first one, but got {image.dtype} "
                f"{list(image.shape)} from {self._image_source(raw_idx)}"
            )
        return (image[:, :, ::-1] if mirrored else image).copy(), self.get_label(idx)

    def _all_labels(self) -> np.ndarray:
        """Return the labels of all raw images, loading and checking them at the first call."""
        if self._label_cache is None:
            labels = self._load_raw_labels() if self._use_labels else None
            if labels is None:
                labels = np.zeros([self._stored_shape[0], 0], dtype=np.float32)
            is_class = labels.dtype == np.int64 and labels.ndim == 1 and bool(np.all(labels >= 0))
            is_vector = labels.dtype == np.float32 and labels.ndim == 2
            if labels.shape[0] != self._stored_shape[0] or not (is_class or is_vector):
                raise OSError(
                    f"Expected {self._stored_shape[0]} labels for {self._name}, each a class index >= 0 "
                    f"or a list of floats, but got {labels.dtype} {list(labels.shape)}"
                )
            self._label_cache = labels
        return self._label_cache

    def get_label(self, idx: int) -> np.ndarray:
        """Return the label of an item, float32 [label_dim]; classes are one-hot."""
        labels, raw_idx = self._all_labels(), self._entries[idx][0]
        if labels.ndim == 1:
            return (np.arange(self.label_dim) == labels[raw_idx]).astype(np.float32)
        return labels[raw_idx].copy()

    def get_details(self, idx: int) -> dnnlib.EasyDict:
        """Return raw_idx (int), xflip (bool) and raw_label (class or vector as stored) of an item."""
        raw_idx, mirrored = self._entries[idx]
        return dnnlib.EasyDict(raw_idx=raw_idx, xflip=mirrored, raw_label=self._all_labels()[raw_idx].copy())

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self._name

    @property
    def image_shape(self) -> list[int]:
        """[C, H, W] of every image."""
        return list(self._stored_shape[1:])

    @property
    def num_channels(self) -> int:
        """Number of channels C."""
        return self.image_shape[0]

    @property
    def resolution(self) -> int:
        """Height and width in pixels; ValueError if they differ."""
        _channels, height, width = self.image_shape
        if height != width:
            raise ValueError(f"Expected square images, but {self._name} has {height} x {width} pixels")
        return height

    @property
    def label_shape(self) -> list[int]:
        """[number of classes], counted over all raw images, or [length of a label vector]."""
        if self._label_size is None:
            labels = self._all_labels()
            self._label_size = [int(labels.max()) + 1] if labels.dtype == np.int64 else list(labels.shape[1:])
        return list(self._label_size)

    @property
    def label_dim(self) -> int:
        """Length of a label, 0 without labels."""
        return self.label_shape[0]

    @property
    def has_labels(self) -> bool:
        """Whether labels have a length."""
        return self.label_dim != 0

    @property
    def has_onehot_labels(self) -> bool:
        """Whether labels are classes."""
        return self.has_labels and self._all_labels().dtype == np.int64


def _choose_images(num: int, max_size: int | None, random_seed: int) -> list[int]:
    """Return the sorted indices of at most max_size of num images."""
    order = np.arange(num)
    if max_size is not None and max_size < num:
        np.random.RandomState(random_seed).shuffle(order)
        order = np.sort(order[:max_size])
    return order.tolist()


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
