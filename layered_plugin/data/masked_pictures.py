"""Pictures and their masks as one picture of four channels, for a discriminator that sees both."""

import os
from collections.abc import Iterable

import numpy as np

from layered_plugin.data.dataset import CACHE_BYTES, PictureDataset
from layered_plugin.data.mask_files import MaskFiles, left_out
from layered_plugin.errors import MaskError
from layered_plugin.progress import progress

LEAST_MASKED = 0.01  # Share of the pictures; with fewer the names are probably of another data set.


class MaskedPictures:
    """Pictures of a data set with their masks as a fourth channel, squeezed alike; those without a mask are left out.

    An item is as that of the data set, but [4, S, S], uint8; of the mask 255 = object, pixels of the edge in between.

    Args:
        pictures: The data set.
        path: Folder, zip or tar of masks.

    Raises:
        MaskError: As of ``MaskFiles``, ``unmatched``, later ``squeezed``, or fewer than ``LEAST_MASKED`` have a mask.
    """

    def __init__(self, pictures: PictureDataset, path: str | os.PathLike[str]) -> None:
        self._pictures, self._files = pictures, MaskFiles(path)
        self._missing, self._extra = self._files.unmatched(pictures.names, pictures.path)
        self._has_mask = np.fromiter((name in self._files for name in pictures.names), bool, len(pictures.names))
        self._items = [idx for idx in range(len(pictures)) if self._has_mask[pictures.get_details(idx)["raw_idx"]]]
        self._cache: np.ndarray | None = None
        if len(self._items) < max(LEAST_MASKED * len(pictures), 1):
            raise MaskError(f"{path}: {len(self._items)} of the {len(pictures)} pictures of {pictures.path} have a "
                            f"mask, {self._missing[0]} has none; a mask needs its picture's name, folders included")

    @property
    def left_out(self) -> list[str]:
        """What a user should know of names that do not match: a line of pictures, a line of masks, or neither."""
        data, path = self._pictures.path, self._files.path
        return [*left_out(self._missing, f"{len(self._pictures.names)} pictures of {data} have no mask in {path}"),
                *left_out(self._extra, f"{len(self._files)} masks in {path} belong to no picture of {data}")]

    def __len__(self) -> int:
        return len(self._items)

    def preload(self, verbose: bool = False) -> bool:
        """Read every mask once, where the pictures are in memory and the masks have room there; as of the pictures."""
        side, used = self._pictures.size_px, [pos for pos in self._pictures.used if self._has_mask[pos]]
        if self._cache is None and self._pictures.preload(verbose) and len(used) * side**2 <= CACHE_BYTES:
            shown: Iterable[int] = progress(used, len(used), "Reading masks") if verbose else used
            cache = np.empty([len(self._pictures.names), side, side], np.uint8)
            for raw_idx in shown:
                cache[raw_idx] = self._files.squeezed(self._pictures.names[raw_idx], self._pictures)
            self._cache = cache
        return self._cache is not None

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        details = self._pictures.get_details(self._items[idx])
        square, shown = self._pictures.square(details["raw_idx"])
        while not self._has_mask[shown]:  # It stands in for one that can't be read.
            square, shown = self._pictures.square((shown + 1) % len(self._has_mask))
        mask = (self._files.squeezed(self._pictures.names[shown], self._pictures) if self._cache is None else
                self._cache[shown])
        channels = np.concatenate([square, mask[None]])
        return channels[:, :, ::-1].copy() if details["xflip"] else channels, self._pictures.get_label(self._items[idx])
