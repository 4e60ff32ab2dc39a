"""Data sets that come with segmentations, as they are downloaded: CUB-200-2011 and Flowers-102.

What there is gets listed; a picture is decoded when it is asked for, so that memory stays constant.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from layered_plugin.data.downloads import Archive, Entry, decode_bytes, find_download
from layered_plugin.data.masks import OBJECT_LEVEL, remove_small_parts
from layered_plugin.data.pictures import box_about, to_rgb
from layered_plugin.errors import PictureError, raising

FLOWER_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}  # Names in setid.mat.
FLOWER_BLUE = np.array([0, 0, 254], np.float32)  # What Flowers-102 paints the background with.

MIN_PART = 0.02  # Parts and holes below this share of the flower's largest part are specks of the segmentation.


@contextlib.contextmanager
def cub(folder: Path, temp_dir: Path, split: str = "all", with_masks: bool = True,
        box_margin: float | None = None) -> Iterator[list[Entry]]:
    """CUB-200-2011, in the order of images.txt, labelled by species from 0 on.

    A pixel is object where at least half of the annotators said so.

    Args:
        folder: Holds CUB_200_2011.tgz and segmentations.tgz, or what they unpack to.
        temp_dir: Where archives are unpacked for as long as they are read.
        split: "train", "test" or "all".
        with_masks: Read the segmentations too.
        box_margin: Take the square about the bounding box with this margin (see ``box_about``), None = whole picture.

    Raises:
        PictureError: An archive is missing, another one, or lacks files.
    """
    with contextlib.ExitStack() as stack:
        pictures = _open(stack, folder, temp_dir, "CUB_200_2011.tgz", ["CUB_200_2011"])
        ids = list(_read_table(pictures, "images.txt"))
        if split != "all":
            in_training = _column(pictures, "train_test_split.txt", ids, int)
            ids = [number for number in ids if in_training[number] == (split == "train")]
        names = _column(pictures, "images.txt", ids, str)
        labels = _column(pictures, "image_class_labels.txt", ids, int)
        boxes: dict[str, Any] = {}
        if box_margin is not None:
            boxes = _column(pictures, "bounding_boxes.txt", ids, _box)
        read_picture = _reader(pictures, [names[number] for number in ids], num_parts=2)
        if with_masks:
            masks = _open(stack, folder, temp_dir, "segmentations.tgz", ["segmentations", "CUB_200_2011/segmentations"])
            read_mask = _reader(masks, [_mask_name(names[number]) for number in ids], num_parts=2)

        def load(number: str) -> tuple[PIL.Image.Image, np.ndarray | None]:
            name = names[number]
            picture, mask = read_picture(name), None
            if with_masks:
                mask = np.asarray(to_rgb(read_mask(_mask_name(name))).convert("L")) >= OBJECT_LEVEL
                _check_size(mask, picture, name)
            if box_margin is None:
                return picture, mask
            with raising(PictureError, name, ValueError):
                part = box_about(boxes[number], box_margin, picture.size)
            return picture.crop(part), None if mask is None else mask[part.top:part.bottom, part.left:part.right]

        yield [Entry(names[number], partial(load, number), labels[number] - 1) for number in ids]


@contextlib.contextmanager
def flowers(folder: Path, temp_dir: Path, split: str = "all", with_masks: bool = True) -> Iterator[list[Entry]]:
    """Flowers-102, in the order of the pictures' numbers, labelled by species from 0 on; arguments as of ``cub``.

    The folder holds 102flowers.tgz and 102segmentations.tgz, or what they unpack to, imagelabels.mat and setid.mat;
    there is a split "val", too. PictureError if a file is missing, another one, or lacks pictures.
    """
    labels = _read_mat(folder, "imagelabels.mat", "labels")
    numbers: Sequence[int] = range(1, len(labels) + 1)
    if split != "all":
        chosen = set(_read_mat(folder, "setid.mat", FLOWER_SPLITS[split]).tolist())
        if not chosen <= set(numbers):
            raise PictureError(f"{folder}/setid.mat: names picture {max(chosen)}, but imagelabels.mat has labels of "
                               f"{len(labels)}; they belong to different data sets")
        numbers = sorted(chosen)
    with contextlib.ExitStack() as stack:
        pictures = _open(stack, folder, temp_dir, "102flowers.tgz", ["jpg", "102flowers"])
        read_picture = _reader(pictures, [f"image_{number:05d}.jpg" for number in numbers], num_parts=1)
        if with_masks:
            masks = _open(stack, folder, temp_dir, "102segmentations.tgz", ["segmim", "102segmentations"])
            read_mask = _reader(masks, [f"segmim_{number:05d}.jpg" for number in numbers], num_parts=1)

        def load(number: int) -> tuple[PIL.Image.Image, np.ndarray | None]:
            name = f"image_{number:05d}.jpg"
            picture = to_rgb(read_picture(name))
            if not with_masks:
                return picture, None
            painted = np.asarray(to_rgb(read_mask(f"segmim_{number:05d}.jpg")))
            _check_size(painted, picture, name)
            return picture, flower_mask(painted, np.asarray(picture))

        yield [Entry(f"image_{number:05d}.jpg", partial(load, number), int(labels[number - 1]) - 1)
               for number in numbers]


def flower_mask(painted: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Object pixels of a segmentation of Flowers-102, whose background is painted blue.

    Both files are JPEG, so blue is not quite blue. With opacity a, painted = a picture + (1 - a) blue; the a that fits
    a pixel best is ((painted - blue) . (picture - blue)) / |picture - blue|^2, and object is where it is at least
    half. So violet petals are no background. Specks and pinholes are removed.

    Args:
        painted: The segmentation, [H, W, 3], uint8.
        picture: The picture itself, likewise.

    Returns:
        Object pixels, [H, W], bool.
    """
    from_blue = picture.astype(np.float32) - FLOWER_BLUE
    mixed = ((painted.astype(np.float32) - FLOWER_BLUE) * from_blue).sum(axis=2)
    mask = mixed >= 0.5 * np.maximum((from_blue ** 2).sum(axis=2), 1.0)
    return remove_small_parts(mask[None], MIN_PART)[0]


def _open(stack: contextlib.ExitStack, folder: Path, temp_dir: Path, archive: str, unpacked: Sequence[str]) -> Archive:
    return stack.enter_context(Archive(find_download(folder, archive, unpacked), temp_dir))


def _find(archive: Archive, wanted: Sequence[str], num_parts: int) -> Mapping[str, str]:
    """Where the wanted files lie in the archive, by the last parts of their names."""
    by_ending = archive.by_ending(num_parts)
    missing = [name for name in wanted if name not in by_ending]
    if missing:
        raise PictureError(f"{archive.path}: lacks {len(missing)} of {len(wanted)} files, such as {missing[0]}; "
                           "is it the right archive, and whole?")
    return by_ending


def _reader(archive: Archive, wanted: Sequence[str], num_parts: int) -> Callable[[str], PIL.Image.Image]:
    """What decodes each of the wanted pictures, which are all there."""
    files = _find(archive, wanted, num_parts)
    return lambda name: decode_bytes(archive.read(files[name]), name)


def _read_table(archive: Archive, name: str) -> dict[str, list[str]]:
    """Lines of numbered text, such as `17 0 1`, by their number."""
    lines = archive.read(_find(archive, [name], num_parts=1)[name]).decode(errors="replace").splitlines()
    return {key: values for key, *values in (line.split() for line in lines if line.strip())}


def _column(archive: Archive, name: str, ids: Sequence[str], convert: Callable[..., Any]) -> dict[str, Any]:
    table = _read_table(archive, name)
    column = {}
    for number in ids:
        try:
            column[number] = convert(*table[number])
        except (KeyError, TypeError, ValueError) as err:
            raise PictureError(f"{archive.path}: {name} has no usable line for picture {number}") from err
    return column


def _box(left: str, top: str, width: str, height: str) -> tuple[float, float, float, float]:
    return float(left), float(top), float(width), float(height)


def _mask_name(picture_name: str) -> str:
    return picture_name.removesuffix(".jpg") + ".png"


def _check_size(mask: np.ndarray, picture: PIL.Image.Image, name: str) -> None:
    height, width = mask.shape[:2]
    if (width, height) != picture.size:
        raise PictureError(f"{name}: its mask is {width}x{height}, the picture {picture.width}x{picture.height}")


def _read_mat(folder: Path, name: str, key: str) -> np.ndarray:
    """A row of whole numbers of a MATLAB file."""
    from scipy.io import loadmat  # Takes long to import, and no other data set needs it.

    path = folder / name
    if not path.is_file():
        raise PictureError(f"{folder}: holds no {name}")
    try:
        return np.asarray(loadmat(path)[key]).astype(np.int64).ravel()
    except KeyError as err:
        raise PictureError(f"{path}: has no {key}; is it the right file?") from err
    except Exception as err:  # SciPy raises many kinds for files that are no MATLAB files.
        raise PictureError(f"{path}: cannot be read as a MATLAB file ({err})") from err
