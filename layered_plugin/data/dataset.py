"""Training pictures: any folder or zip, any size, to square RGB; the order they come in, resumable.

Section 3.4 of the paper: pictures are resized to 1.125 times the resolution, then cropped at random.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Sampler
from training.dataset import Dataset

from layered_plugin.data import decoded
from layered_plugin.data.picture_labels import read_labels
from layered_plugin.data.pictures import CROP_RATIO, PictureSource, to_float, to_square
from layered_plugin.device import seeded_cpu
from layered_plugin.errors import ArgumentError, PictureError
from layered_plugin.progress import progress

CACHE_BYTES = 4 << 30  # Decoded pictures that are not shared are kept in memory up to this size.
NAMED = 8  # Of the pictures that can't be read, beside the first.
MAX_UNREADABLE = 16  # So many pictures may become unreadable while they are shown; the next one ends the run.


def random_crop(img: torch.Tensor, size_px: int) -> torch.Tensor:
    """Crop each image at a place of its own.

    Args:
        img: Images, [N, C, H, W], any dtype, H and W at least size_px.
        size_px: Side of the crop, in pixels.

    Returns:
        Crops, [N, C, size_px, size_px]; offsets are drawn from torch's default generator on the image's device.

    Raises:
        ValueError: If the images are smaller than the crop.
    """
    num, _channels, height, width = img.shape
    if height < size_px or width < size_px:
        raise ValueError(f"Expected argument `img` to be at least {size_px} px wide and high, but got {width}x{height}")
    if (height, width) == (size_px, size_px):
        return img
    top = torch.randint(0, height - size_px + 1, [num, 1, 1, 1], device=img.device)
    left = torch.randint(0, width - size_px + 1, [num, 1, 1, 1], device=img.device)
    offset = torch.arange(size_px, device=img.device)
    sample = torch.arange(num, device=img.device).view(-1, 1, 1, 1)
    channel = torch.arange(img.shape[1], device=img.device).view(1, -1, 1, 1)
    return img[sample, channel, top + offset.view(1, 1, -1, 1), left + offset.view(1, 1, 1, -1)]


def crop_by_number(square: np.ndarray, size_px: int, number: int) -> np.ndarray:
    """Crop one picture at a place that its number in the data set decides, [C, S, S] to [C, size_px, size_px]."""
    if square.shape[2] == size_px:
        return square
    with seeded_cpu(number):
        return random_crop(torch.from_numpy(square.copy()).unsqueeze(0), size_px)[0].numpy()


class PictureDataset(Dataset):
    """Pictures of a folder (searched recursively) or a zip, resized to ``size_px`` squares, RGB, uint8.

    A host ``Dataset`` with fewer demands than ``ImageFolderDataset``: sizes and modes may differ from picture to
    picture; non-square ones are squeezed, as in the paper. Labels are read from ``dataset.json`` as upstream has it, or
    from ``.cls`` or ``.json`` beside each picture, as WebDataset does (``picture_labels``).

    With ``resolution``, which upstream's ``calc_metrics.py`` adds, each picture is cropped as the training crops it,
    at a place of its own that its number decides.
    """

    def __init__(self,
        path,                       # Folder or zip.
        size_px         = None,     # Side of the squares; None = resolution, or the first picture's, if it is square.
        resolution      = None,     # Side of the crops, at most size_px; None = the squares are whole.
        **super_kwargs,             # Arguments for Dataset: max_size, use_labels, xflip, random_seed.
    ):
        if size_px is None:
            size_px = resolution
        elif resolution is not None and resolution > size_px:
            raise ArgumentError(f"`resolution` must be at most `size_px`={size_px}, got {resolution}")
        self.path = Path(path)
        self.source = PictureSource(path)
        self.names = self.source.names
        self.size_px = size_px
        width, height = self.source.open(self.names[0]).size
        if size_px is None:
            if width != height:
                raise PictureError(f"{path}: {self.names[0]} is {width}x{height}, not square; give a size")
            self.size_px = width
        self.native_size = (width, height)
        self._cache: np.ndarray | None = None
        self._crop_px = resolution or self.size_px
        raw_shape = [len(self.names), 3, self._crop_px, self._crop_px]
        self._larger: PictureDataset | None = None
        self._unreadable = torch.zeros(1, dtype=torch.int64).share_memory_()  # Of all worker processes.
        self._super_kwargs = super_kwargs
        super().__init__(name=self.path.stem, raw_shape=raw_shape, **super_kwargs)

    def reduced(self, size_px: int) -> "PictureDataset":
        """The same pictures at a smaller size, antialiased, from those in memory; at their own itself."""
        if size_px == self.size_px:
            return self
        smaller = PictureDataset(self.path, size_px=size_px, **self._super_kwargs)
        smaller._larger = self
        return smaller

    def _decode(self, raw_idx: int) -> np.ndarray:
        if self._larger is None:
            return to_square(self.source.open(self.names[raw_idx]), self.size_px)
        pixels = self._larger.square(raw_idx)[0].transpose(1, 2, 0)  # [H, W, C]
        return to_square(PIL.Image.fromarray(pixels), self.size_px)

    @property
    def used(self) -> list[int]:
        """Positions in ``names`` of the pictures that are shown, ascending: all, or those of a subset."""
        return sorted({self.get_details(idx)["raw_idx"] for idx in range(len(self))})

    def preload(self, verbose: bool = False) -> bool:
        """Decode every picture once and keep it; finds bad pictures early, all of them.

        Large data sets are kept in one file that all processes and later runs share (``decoded``); smaller ones, and
        those for which there is no room, in memory, if all fit into ``CACHE_BYTES``. Pictures that are in memory
        already stay as they are.

        Args:
            verbose: Show progress on stderr.

        Returns:
            Whether the pictures are now in memory.

        Raises:
            PictureError: Some can't be read; the text names the first with the reason, and others.
        """
        if self._cache is not None:
            return True
        shape = [len(self.names), 3, self.size_px, self.size_px]
        num_bytes = np.prod(shape, dtype=np.int64)
        used, label = self.used, f"Decoding pictures at {self.size_px}x{self.size_px}"

        def decode(positions: Iterable[int]) -> Iterator[np.ndarray]:
            shown = progress(positions, len(used), label) if verbose else positions
            return self.read_all(shown)

        if num_bytes >= decoded.SHARED_FROM and self.path.exists():
            self._cache = decoded.shared_pictures(self.source, self._sizes(), used, len(self.names), decode)
        if self._cache is None and num_bytes <= CACHE_BYTES:
            cache = np.empty(shape, dtype=np.uint8)
            for raw_idx, picture in zip(used, decode(used), strict=True):
                cache[raw_idx] = picture
            self._cache = cache
        return self._cache is not None

    def read_all(self, positions: Iterable[int]) -> Iterator[np.ndarray]:
        """Decode pictures at some positions before the crop, [3, size_px, size_px], uint8.

        Once one can't be read, the others are only tried, and the end is the PictureError that names them.
        """
        error, failed = "", []
        for raw_idx in positions:
            try:
                picture = self._decode(raw_idx)
            except PictureError as err:
                error = error or str(err)
                failed.append(self.names[raw_idx])
            if not failed:
                yield picture
        if len(failed) > 1:
            others = ", ".join(failed[1:1 + NAMED]) + (" and others" if len(failed) > 1 + NAMED else "")
            error += f"; nor can {len(failed) - 1} more be read: {others}"
        if failed:
            raise PictureError(error)

    def _sizes(self) -> list[int]:
        """Sides that the pictures are brought to, one after the other."""
        return [*([] if self._larger is None else self._larger._sizes()), self.size_px]

    def square(self, raw_idx: int) -> tuple[np.ndarray, int]:
        """A picture before the crop, [3, size_px, size_px], uint8, or the next readable one; its place in ``names``."""
        if self._cache is not None:
            return self._cache[raw_idx], raw_idx
        while True:
            try:
                return self._decode(raw_idx), raw_idx
            except PictureError as err:
                self._unreadable += 1
                if self._unreadable > MAX_UNREADABLE:
                    raise PictureError(f"{err}; {MAX_UNREADABLE} others were skipped, which is the limit") from err
                print(f"WARNING: {err}; the next one is shown in its place", file=sys.stderr)
            raw_idx = (raw_idx + 1) % len(self.names)

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        return crop_by_number(self.square(raw_idx)[0], self._crop_px, raw_idx)

    def _load_raw_labels(self) -> np.ndarray | None:
        return read_labels(self.source)

    def close(self) -> None:
        self.source.close()


class ResumableSampler(Sampler[int]):
    """Endless shuffled indices that can start anywhere: position k depends on the seed and k alone.

    Each epoch is a fresh permutation. Of P processes, process r draws the positions that are r modulo P, so a
    batch holds the same pictures however many processes share it.
    """

    def __init__(self, num: int, start: int = 0, rank: int = 0, num_replicas: int = 1, seed: int = 0):
        if num < 1:
            raise ValueError(f"Expected argument `num` to be at least 1, but got {num}")
        self.num = num
        self.start = start
        self.rank = rank
        self.num_replicas = num_replicas
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.rank
        epoch = -1
        order: np.ndarray = np.empty(0, dtype=np.int64)
        while True:
            if position // self.num != epoch:
                epoch = position // self.num
                order = np.random.RandomState([self.seed, epoch]).permutation(self.num)
            yield int(order[position % self.num])
            position += self.num_replicas


class RealPictures:
    """Endless shuffled batches of real pictures for training on top of a generator, which saw them the same way.

    Args:
        path: Folder or zip.
        resolution: Side of the pictures handed out, in pixels.
        seed: Of the order.
        device: Where the pictures go.

    Raises:
        PictureError: The data set or a picture of it can't be read.
    """

    def __init__(self, path, resolution: int, seed: int = 0, device: str = "cpu"):
        self.resolution, self.seed, self.device = resolution, seed, device
        self.dataset = PictureDataset(path=path, size_px=round(resolution * CROP_RATIO))
        self.dataset.preload(verbose=True)
        self.start_at(0)

    def start_at(self, position: int) -> None:
        """Go to a position of the endless order."""
        self._order = iter(ResumableSampler(len(self.dataset), start=position, seed=self.seed))

    def batch(self, num: int) -> torch.Tensor:
        """Next pictures, [num, 3, resolution, resolution], in [-1, 1]; crops by torch's default generator."""
        img = np.stack([self.dataset[next(self._order)][0] for _ in range(num)])
        return random_crop(to_float(torch.from_numpy(img).to(self.device)), self.resolution)
