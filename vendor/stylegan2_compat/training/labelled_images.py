"""Images by index, with optional labels: what every data set of the base has in common.

Where images and labels come from is up to the subclass, as in `training.dataset`.
"""

from collections.abc import Sequence
from typing import Any

import dnnlib
import numpy as np
import torch


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
