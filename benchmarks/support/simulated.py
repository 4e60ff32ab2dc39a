"""A data set of any number of pictures without files: ``PictureDataset`` on a source that invents them."""

from unittest import mock

import numpy as np
import PIL.Image

from layered_plugin.data import dataset

POOL = 64  # Different pictures; speed and memory do not depend on what is in them.


class SimulatedSource:
    """Stands for ``PictureSource``: as many names as asked for, pictures that need no decoding.

    Args:
        num: Number of pictures.
        size_px: Their side, in pixels.
    """

    def __init__(self, num: int, size_px: int):
        self.names = [f"{idx:08d}.png" for idx in range(num)]
        pixels = np.random.RandomState(0).randint(0, 256, [min(num, POOL), size_px, size_px, 3], dtype=np.uint8)
        self._pool = [PIL.Image.fromarray(picture) for picture in pixels]

    def __len__(self) -> int:
        return len(self.names)

    def open(self, name: str) -> PIL.Image.Image:
        return self._pool[int(name.removesuffix(".png")) % len(self._pool)]

    def read(self, name: str) -> bytes:
        raise KeyError(name)

    def close(self) -> None:
        """There is no file to close."""


class SimulatedPictures(dataset.PictureDataset):
    """All of ``PictureDataset`` but the files: names, cache, order, mirroring, loading by worker processes."""

    def __init__(self, num: int, size_px: int):
        source = SimulatedSource(num, size_px)
        with mock.patch.object(dataset, "PictureSource", lambda _path: source):
            super().__init__(path=f"simulated-{num}", size_px=size_px)
