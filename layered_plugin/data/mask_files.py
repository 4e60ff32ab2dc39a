"""Masks of a data set as files beside it: which belongs to which picture, and both as one picture of four channels."""

import os
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from layered_plugin.data.dataset import CACHE_BYTES, PictureDataset
from layered_plugin.data.masks import OBJECT_LEVEL, Ranges, mask_opacity, square_mask
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import MaskError, PictureError, UnusableError
from layered_plugin.progress import progress


class MaskFiles:
    """Masks of a folder or zip, read as ``mask_opacity`` does.

    A mask belongs to the picture with the same name, folders included; only the suffix may differ.

    Args:
        path: Folder or zip.
        values: Values of its files that are object; None = where it is plain.

    Raises:
        MaskError: It can't be read, or two of its files differ in the suffix alone.
    """

    def __init__(self, path: str | os.PathLike[str], values: Ranges | None = None) -> None:
        try:
            self._source = PictureSource(path)
        except PictureError as err:
            raise MaskError(str(err)) from err
        self.path, self._values = path, values
        self._by_stem: dict[str, str] = {}
        for name in self._source.names:
            other = self._by_stem.setdefault(_stem(name), name)
            if other != name:
                raise MaskError(f"{path}: {other} and {name} are masks of the same picture; remove one")

    def check_names(self, names: Sequence[str], data: str | os.PathLike[str]) -> None:
        """Compare the names of the masks with those of a whole data set.

        Args:
            names: All pictures of the data set.
            data: Its path, for the error.

        Raises:
            MaskError: A mask is missing or left over, or two pictures share one; the text names the first.
        """
        pictures: dict[str, str] = {}
        for name in names:
            other = pictures.setdefault(_stem(name), name)
            if other != name:
                raise MaskError(f"{self.path}: pictures {other} and {name} of {data} would share a mask; rename one")
        count = f"(masks: {len(self._by_stem)}, pictures: {len(pictures)})"
        missing = [name for stem, name in pictures.items() if stem not in self._by_stem]
        if missing:
            raise MaskError(f"{self.path}: no mask for picture {missing[0]} of {data} {count}")
        extra = [name for stem, name in self._by_stem.items() if stem not in pictures]
        if extra:
            raise MaskError(f"{self.path}: mask {extra[0]} belongs to no picture of {data} {count}")

    def read(self, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """The mask of a picture.

        Args:
            name: The picture's.
            size: Its width and height, which the mask must have; None = any.

        Returns:
            Object pixels, [H, W], bool.

        Raises:
            MaskError: There is none, it can't be read, or it has another size.
        """
        if _stem(name) not in self._by_stem:
            raise MaskError(f"{self.path}: no mask for picture {name}")
        file = self._by_stem[_stem(name)]
        try:
            opacity = mask_opacity(self._source.open(file), self._values)
        except PictureError as err:
            raise MaskError(str(err)) from err
        except UnusableError as err:
            raise MaskError(f"{self.path}: mask {file} {err}") from err
        if size is not None and opacity.shape[::-1] != size:
            raise MaskError(f"{self.path}: mask {file} is {opacity.shape[1]}x{opacity.shape[0]}, its picture "
                            f"{size[0]}x{size[1]}")
        return opacity >= OBJECT_LEVEL


class MaskedPictures:
    """Pictures of a data set with their masks as a fourth channel, squeezed alike.

    An item is as that of the data set, but [4, S, S], uint8; of the mask 255 = object, pixels of the edge in between.

    Args:
        pictures: The data set.
        path: Folder or zip of masks, one for each picture.

    Raises:
        MaskError: As of ``MaskFiles`` and ``check_names``.
    """

    def __init__(self, pictures: PictureDataset, path: str | os.PathLike[str]) -> None:
        self._pictures, self._files = pictures, MaskFiles(path)
        self._files.check_names(pictures.names, pictures.path)
        self._cache: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._pictures)

    def preload(self, verbose: bool = False) -> bool:
        """Read every mask once, where the pictures are in memory and the masks have room there; as of the pictures.

        Args:
            verbose: Show progress on stderr.
        """
        side, used = self._pictures.size_px, self._pictures.used
        if self._cache is None and self._pictures.preload(verbose) and len(used) * side**2 <= CACHE_BYTES:
            shown: Iterable[int] = progress(used, len(used), "Reading masks") if verbose else used
            cache = np.empty([len(self._pictures.names), side, side], np.uint8)
            for raw_idx in shown:
                cache[raw_idx] = self._decode(raw_idx)
            self._cache = cache
        return self._cache is not None

    def _decode(self, raw_idx: int) -> np.ndarray:
        return square_mask(self._files.read(self._pictures.names[raw_idx]), self._pictures.size_px, "squeeze")

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        details = self._pictures.get_details(idx)
        square, shown = self._pictures.square(details["raw_idx"])
        mask = self._decode(shown) if self._cache is None else self._cache[shown]
        both = np.concatenate([square, mask[None]])
        return both[:, :, ::-1].copy() if details["xflip"] else both, self._pictures.get_label(idx)


def _stem(name: str) -> str:
    """Name of a picture without its suffix."""
    return str(PurePosixPath(name).with_suffix(""))
