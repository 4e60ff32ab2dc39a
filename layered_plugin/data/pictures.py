"""Pictures of any size and format: read from a folder or zip, made square, as arrays and tensors."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps

from layered_plugin.data.files import (
    UNREADABLE,
    Folder,
    count_foreign,
    is_picture_name,
    open_files,
    read_file,
    warn_of_foreign,
)
from layered_plugin.data.tars import Shards
from layered_plugin.errors import PictureError, raising

if TYPE_CHECKING:  # Takes long to import, and who draws pictures has no tensors.
    import torch

BATCH_PIXELS = 30_000_000  # Pictures, masks and layers are held at full size, at about 30 bytes a pixel.

FEW_PICTURES = 5000  # Fewer are a small set, which networks soon know by heart.

CROP_RATIO = 1.125  # Real pictures are resized to this many times the resolution before the crop (section 3.4).

REDUCING_GAP = 3.0  # Pixels are averaged before the filter down to so many times the size: quicker, nearly the same.

FITS = ("squeeze", "crop")

ORIENTATION = 0x0112  # EXIF's tag for how a picture is turned; from 5 on width and height change places.

T = TypeVar("T")


class PictureSource:
    """Names of the pictures of a folder (searched recursively), a zip, a tar or a single file, and a way to open each.

    Pictures of a format that can't be read here are left out, with a warning.

    Args:
        path: Folder, zip, tar or picture; of a folder without pictures its tars, shards such as WebDataset's.
        temp_dir: Where a compressed tar is unpacked; None = none is taken.
        kind: What errors call its pictures.

    Raises:
        PictureError: It is none of these, or holds no pictures.
    """

    def __init__(self, path: str | os.PathLike[str], temp_dir: Path | None = None, kind: str = "picture") -> None:
        self.path, self._kind = Path(path), kind
        if self.path.is_file() and count_foreign([self.path.name]):
            raise PictureError(f"{self.path}: pictures of this format can't be read: convert it to JPEG or PNG")
        single = self.path.is_file() and is_picture_name(self.path.name)
        with raising(PictureError, f"{self.path}: neither a folder nor a readable zip or tar", *UNREADABLE):
            self.files = Folder(self.path.parent) if single else open_files(self.path, temp_dir)
            names = [self.path.name] if single else self.files.list_names()
            if self.path.is_dir() and not any(map(is_picture_name, names)) and any(self.path.glob("*.tar")):
                self.files = Shards(self.path)
                names = self.files.list_names()
        self.names = [name for name in names if is_picture_name(name)]
        if not self.names:
            self.files.close()
            foreign = count_foreign(names)
            raise PictureError(f"{self.path}: holds no {kind}s" + (f" but {foreign}" if foreign else ""))
        if not single:
            warn_of_foreign(self.path, names)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> bytes:
        """Contents of any file of the folder or archive; KeyError or FileNotFoundError if there is none."""
        return read_file(self.files, name)

    def size(self, name: str) -> int:
        """Bytes of any file of the folder or archive; errors as ``read``."""
        return self.files.size(name)

    def open(self, name: str) -> PIL.Image.Image:
        """Decode one picture, in its own mode and size, upright by its EXIF; PictureError if it can't be read."""
        try:
            with self.files.open(name) as file:
                return decode(file)
        except UNREADABLE as err:
            raise PictureError(self.cannot_read(name, err)) from err

    def header_size(self, name: str) -> tuple[int, int]:
        """Width and height of a picture as ``open`` turns it, of its header alone if that can be read; errors as there.

        An orientation that follows the pixels is not seen.
        """
        try:
            with self.files.open(name) as file:
                picture = PIL.Image.open(file)
                # PNG's own method decodes all to look behind the pixels; the size of a TIFF is turned already.
                turned = picture.format != "TIFF" and PIL.Image.Image.getexif(picture).get(ORIENTATION, 1) >= 5
                return picture.size[::-1] if turned else picture.size
        except UNREADABLE:
            return self.open(name).size

    def cannot_read(self, name: str, reason: object) -> str:
        """What to say of a picture that can't be read."""
        return f"{self.path}: cannot read {self._kind} {name}: {reason}"

    def close(self) -> None:
        """Close the archive, if one is open."""
        self.files.close()


def full_batches(items: Iterable[T], pixels: Callable[[T], int], batch: int) -> Iterator[list[T]]:
    """Group what comes, as many at a time as asked for, but fewer of large pictures: memory stays bounded.

    Args:
        items: What holds a picture each.
        pixels: Size of an item's picture.
        batch: Items at a time, at most; a group ends early once it has ``BATCH_PIXELS``.
    """
    group: list[T] = []
    num_pixels = 0
    for item in items:
        group.append(item)
        num_pixels += pixels(item)
        if len(group) == batch or num_pixels >= BATCH_PIXELS:
            yield group
            group, num_pixels = [], 0
    if group:
        yield group


def decode(file: IO[bytes], upright: bool = True) -> PIL.Image.Image:
    """Decode an open file of any format, in its own mode and size, upright by its EXIF; raises ``UNREADABLE``."""
    try:
        picture = PIL.Image.open(file)
        picture.load()
    except PIL.UnidentifiedImageError:  # Its text names an object in memory.
        raise PIL.UnidentifiedImageError("no picture in a known format") from None
    except PIL.Image.DecompressionBombError as err:  # Its text speaks of an attack, and has the pixels and the limit.
        numbers = " pixels are more than the ".join(f"{int(number):,}" for number in re.findall(r"\d+", str(err)))
        raise PIL.Image.DecompressionBombError(f"{numbers} that are read; shrink it") from None
    return PIL.ImageOps.exif_transpose(picture) if upright else picture


def to_rgb(picture: PIL.Image.Image, backdrop: str = "white") -> PIL.Image.Image:
    """A picture of any mode as 8-bit RGB; 16-bit gray keeps its upper 8 bits, fractions are of white.

    The backdrop, a colour as Pillow names it, lies behind what is transparent; hidden colours do not show.
    """
    if picture.mode[0] in "IF":  # Pillow would clip at 255: 16 bits would be white, fractions black.
        levels = np.nan_to_num(np.asarray(picture)).clip(0, 65535)
        if picture.mode == "F" and levels.max() <= 1:
            levels = (levels * 255).round()
        levels = levels.astype(np.int32) >> 8 if levels.max() > 255 else levels
        return PIL.Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")  # La converts to LA alone.
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", picture.size, backdrop), picture).convert("RGB")


class Box(NamedTuple):
    """Part of a picture in whole pixels; right and bottom are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int


def box_about(box: tuple[float, float, float, float], space: float, size: tuple[int, int]) -> Box:
    """Square about a bounding box, moved into the picture.

    Its side is the box's longer one times 1 + 2 space. Where the picture is smaller than that, it is taken whole
    along that axis, so that the object is never cut.

    Args:
        box: Left, top, width and height, in pixels.
        space: Kept free on each side, as a share of the box's longer side.
        size: Width and height of the picture.

    Raises:
        ValueError: The box is empty or lies outside the picture.
    """
    left, top, width, height = box
    if not (width > 0 and height > 0 and left < size[0] and top < size[1] and left + width > 0 and top + height > 0):
        raise ValueError(f"bounding box {left:g},{top:g} {width:g}x{height:g} is empty or outside the picture, "
                         f"which is {size[0]}x{size[1]}")
    side = max(round(max(width, height) * (1 + 2 * space)), 1)
    starts, sides = [], []
    for centre, length in ((left + width / 2, size[0]), (top + height / 2, size[1])):
        sides.append(min(side, length))
        starts.append(min(max(round(centre - sides[-1] / 2), 0), length - sides[-1]))
    return Box(starts[0], starts[1], starts[0] + sides[0], starts[1] + sides[1])


def square_picture(picture: PIL.Image.Image, size_px: int, fit: str) -> np.ndarray:
    """Picture of any mode and shape to RGB, [size_px, size_px, 3], uint8.

    By `fit` the whole picture is squeezed, or the square in its middle cropped.
    """
    picture = to_rgb(picture)
    if picture.size == (size_px, size_px):
        return np.asarray(picture)
    return np.asarray(picture.resize((size_px, size_px), PIL.Image.Resampling.LANCZOS, fit_box(picture.size, fit)))


def fit_box(size: tuple[int, int], fit: str) -> Box:
    """Part of a picture that becomes the square: all of it to be squeezed, or the square in its middle."""
    if fit not in FITS:
        raise ValueError(f"Expected argument `fit` to be one of {', '.join(FITS)}, but got {fit!r}")
    width, height = size
    if fit == "squeeze":
        return Box(0, 0, width, height)
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    return Box(left, top, left + side, top + side)


def to_square(picture: PIL.Image.Image, size_px: int) -> np.ndarray:
    """Squeeze a picture of any mode and size to RGB [3, size_px, size_px], uint8."""
    return square_picture(picture, size_px, "squeeze").transpose(2, 0, 1)  # [C, H, W]


def inner_box(size: tuple[int, int], size_px: int) -> Box:
    """Where a picture of this width and height lies in a square of side size_px if it keeps its proportions.

    Its longer side is the square's, and it lies in the middle.
    """
    width, height = (max(1, round(side * size_px / max(size))) for side in size)
    left, top = (size_px - width) // 2, (size_px - height) // 2
    return Box(left, top, left + width, top + height)


def to_letterbox(picture: PIL.Image.Image, size_px: int) -> np.ndarray:
    """Fit a picture of any mode and size into a square in its own proportions, RGB [3, size_px, size_px], uint8.

    It lies in ``inner_box``; beside it, the pixels of its border go on to the square's.
    """
    box = inner_box(picture.size, size_px)
    inside = (box.right - box.left, box.bottom - box.top)
    small = np.asarray(to_rgb(picture).resize(inside, PIL.Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP))
    padding = [(box.top, size_px - box.bottom), (box.left, size_px - box.right), (0, 0)]
    return np.pad(small, padding, mode="edge").transpose(2, 0, 1)  # [C, H, W]


def to_float(img: "torch.Tensor") -> "torch.Tensor":
    """uint8 [0, 255] to float32 [-1, 1], the host's way: x / 127.5 - 1."""
    return img.float() / 127.5 - 1


def to_uint8(img: "torch.Tensor") -> "torch.Tensor":
    """Float [-1, 1] to uint8, rounded and clamped; the exact inverse of ``to_float`` on its 256 levels."""
    return ((img.float() + 1) * 127.5).round().clamp(0, 255).byte()
