"""Masks of a data set as files beside it: which belongs to which picture."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import PurePosixPath

import numpy as np
import PIL.Image

from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.masks import OBJECT_LEVEL, Ranges, has_proportions, mask_opacity, square_mask
from layered_plugin.data.pictures import PictureSource, to_rgb
from layered_plugin.data.tars import sample_file
from layered_plugin.errors import MaskError, PictureError, UnusableError
from layered_plugin.runs import CONTACT_SHEET, DOUBTFUL

# Results of ``invert.py segment`` by kind: their folders in a zip, and what a sample's files end in within a tar.
RESULTS = dict(masks="mask.png", cutouts="cutout.png", backgrounds="background.png", foregrounds="foreground.png",
               reconstructions="reconstruction.png")


class MaskFiles:
    """Masks of a folder, zip or tar, read as ``mask_opacity`` does.

    A mask belongs to the picture with the same name, folders included; only the suffix may differ. Of pictures that
    differ in the suffix alone it has the whole name, as `a.jpg.png`. Of a folder or archive that
    ``invert.py segment`` wrote, the masks are taken, and its other results left alone.

    Args:
        path: Folder, zip or tar; of several tars their folder.
        values: Values of its files that are object; None = where it is plain.

    Raises:
        MaskError: It can't be read, or two of its files differ in the suffix alone.
    """

    def __init__(self, path: str | os.PathLike[str], values: Ranges | None = None) -> None:
        try:
            self._source = PictureSource(path, kind="mask")
        except PictureError as err:
            raise MaskError(str(err)) from err
        self.path, self._values = path, values
        self._by_stem: dict[str, str] = {}
        self._within: dict[str, str] = {}  # The same by the name within a tar of a folder: tars are numbered anew.
        for stem, name in _masks_among(self._source.names):
            other = self._by_stem.setdefault(stem, name)
            if other != name:
                raise MaskError(f"{path}: {other} and {name} are masks of the same picture; remove one")
            shard, _, rest = stem.partition(".tar/")
            if rest and "/" not in shard:
                self._within.setdefault(rest, name)

    def check_names(self, names: Sequence[str], data: str | os.PathLike[str], some: bool = False) -> list[str]:
        """Compare the names of the masks with those of all pictures of a data set, whose path is for the error.

        Returns the pictures without a mask. MaskError, with the first, if there are any, with `some` only if no picture
        has one; if a mask is left over, two pictures share one, or one has two.
        """
        missing, extra = self.unmatched(names, data)
        count = f"(masks: {len(self._by_stem)}, pictures: {len(names)})"
        if some and len(missing) == len(names):
            raise MaskError(f"{self.path}: none of the {len(names)} pictures of {data} has a mask, such as "
                            f"{missing[0]}; a mask needs its picture's name, folders included")
        if missing and not some:
            raise MaskError(f"{self.path}: no mask for picture {missing[0]} of {data} {count}")
        if extra:
            raise MaskError(f"{self.path}: mask {extra[0]} belongs to no picture of {data} {count}")
        return missing

    def unmatched(self, names: Sequence[str], data: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
        """Pictures of a whole data set that have no mask, and masks that belong to none of its pictures.

        MaskError, with the data, if two pictures share a mask, or one has two.
        """
        first_user: dict[str | None, str] = {}
        for name in names:
            file = self._find(name)
            other = first_user.setdefault(file, name)
            if file is not None and other != name:
                raise MaskError(f"{self.path}: pictures {other} and {name} of {data} would share mask {file}; name "
                                f"their masks {other}.png and {name}.png instead")
        for name in names:
            of_picture = self._candidates(name)
            left = next((file for file in of_picture[1:] if file not in first_user), None)
            if left is not None:
                raise MaskError(f"{self.path}: {of_picture[0]} and {left} are masks of picture {name} of {data}; "
                                "remove one")
        return ([name for name in names if name not in self],
                [name for name in self._by_stem.values() if name not in first_user])

    def __len__(self) -> int:
        return len(self._by_stem)

    def __contains__(self, name: str) -> bool:
        """Whether a picture has a mask."""
        return self._find(name) is not None

    def _find(self, name: str) -> str | None:
        """The file of a picture's mask."""
        return next(iter(self._candidates(name)), None)

    def _candidates(self, name: str) -> list[str]:
        """Files that bear a picture's name, the one that is taken first."""
        keys = (_stem(name), name)
        return [files[key] for key in keys for files in (self._by_stem, self._within) if key in files]

    def read(self, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """Object pixels of a picture's mask, [H, W], bool; errors as of ``opacity``.

        Its width and height must be those of `size`; None = any.
        """
        return self.opacity(name, size) >= OBJECT_LEVEL

    def opacity(self, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """As ``read``, but with soft edges, [H, W], uint8; object from ``OBJECT_LEVEL`` on.

        MaskError if there is none, it can't be read, or it has another size.
        """
        return self.levels(name, lambda picture: mask_opacity(picture, self._values), size)

    def levels(self, name: str, read_mask: Callable[[PIL.Image.Image], np.ndarray],
               size: tuple[int, int] | None = None) -> np.ndarray:
        """As ``opacity``, but with what `read_mask` makes of the decoded file, [H, W]."""
        file = self._find(name)
        if file is None:
            raise MaskError(f"{self.path}: no mask for picture {name}")
        try:
            levels = read_mask(self._source.open(file))
        except PictureError as err:
            raise MaskError(str(err)) from err
        except UnusableError as err:
            raise MaskError(f"{self.path}: mask {file} {err}") from err
        if size is not None and levels.shape[::-1] != size:
            raise self._other_size(name, levels, size)
        return levels

    def squeezed(self, name: str, pictures: PictureDataset) -> np.ndarray:
        """As ``opacity``, of any size in the proportions of its picture, squeezed as those of its data set, [S, S]."""
        mask = self.read(name)
        if not has_proportions(mask, pictures.source.header_size(name)):
            size = pictures.source.open(name).size  # Some are turned by what follows their pixels.
            if not has_proportions(mask, size):
                raise self._other_size(name, mask, size)
        return square_mask(mask, pictures.size_px, "squeeze")

    def _other_size(self, name: str, mask: np.ndarray, size: tuple[int, int]) -> MaskError:
        return MaskError(f"{self.path}: mask {self._find(name)} is {mask.shape[1]}x{mask.shape[0]}, its picture "
                         f"{size[0]}x{size[1]}")

    def close(self) -> None:
        """Close the archive."""
        self._source.close()


def left_out(names: Sequence[str], text: str) -> list[str]:
    """A line that says of what so many are left out, for a user; none without names."""
    return [f"{len(names)} of {text} and are left out, such as {names[0]}"] if names else []


def gray_levels(picture: PIL.Image.Image) -> np.ndarray:
    """A file of labels as it is, [H, W], uint8."""
    return np.asarray(to_rgb(picture).convert("L"))


def read_pairs(pictures: str | os.PathLike[str], masks: str | os.PathLike[str],
               read_mask: Callable[[PIL.Image.Image], np.ndarray] = gray_levels) -> tuple[np.ndarray, np.ndarray]:
    """Read pictures and masks of one size into memory.

    Args:
        pictures: Folder, zip or tar of pictures.
        masks: Of their masks, named as those of ``MaskFiles``.
        read_mask: A decoded mask to [H, W], uint8.

    Returns:
        Pictures [N, 3, H, W] and masks [N, H, W], both uint8, in the order of the pictures' names.

    Raises:
        MaskError: A mask can't be read, is missing or left over, or has another size than its picture.
        PictureError: A picture can't be read, or has another size than the first one.
    """
    all_pictures: list[np.ndarray] = []
    all_masks: list[np.ndarray] = []
    with closing(PictureSource(pictures)) as source, closing(MaskFiles(masks)) as files:
        files.check_names(source.names, pictures)
        for name in source.names:
            picture = to_rgb(source.open(name))
            height, width = all_masks[0].shape if all_masks else picture.size[::-1]
            if picture.size != (width, height):
                raise PictureError(f"{pictures}: {name} is {picture.width}x{picture.height}, the first one "
                                   f"{width}x{height}")
            all_masks.append(files.levels(name, read_mask, picture.size))
            all_pictures.append(np.asarray(picture).transpose(2, 0, 1))  # [3, H, W]
    return np.stack(all_pictures), np.stack(all_masks)


def _masks_among(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which of the files are masks, each behind the name of its picture without suffix."""
    end = f".{RESULTS['masks']}"
    in_tar = [name for name in names if name.endswith(end)]
    folders = {name.partition("/")[0] for name in names} - {CONTACT_SHEET}
    if in_tar:
        return ((sample_file(name.removesuffix(end)), name) for name in in_tar)
    if "masks" in folders and folders <= {*RESULTS, DOUBTFUL}:
        return ((_stem(name.removeprefix("masks/")), name) for name in names if name.startswith("masks/"))
    return ((_stem(name), name) for name in names)


def _stem(name: str) -> str:
    """Name of a picture without its suffix."""
    return str(PurePosixPath(name).with_suffix(""))
