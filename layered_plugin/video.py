"""Pictures as a film, with the optional library for it."""

import os
from collections.abc import Iterable
from importlib.util import find_spec

import numpy as np

from layered_plugin.errors import MissingLibraryError

FPS = 10  # As upstream's projector.


def can_write() -> bool:
    """Whether the library is there."""
    return find_spec("imageio_ffmpeg") is not None


def check_can_write() -> None:
    """Raise MissingLibraryError if the library is not there."""
    if not can_write():
        raise MissingLibraryError("`save_video` needs imageio-ffmpeg: pip install 'layered-plugin[video]', or leave "
                                  "the film out")


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray]) -> None:
    """Write frames [H, W, 3], uint8, as an MP4 (H.264), enlarged until its smaller side has 256 pixels.

    There must be one at least, with sides that are multiples of 8, and the library (``can_write``).
    """
    import imageio_ffmpeg

    writer = None
    for frame in frames:
        scale = max(1, 256 // min(frame.shape[:2]))
        large = np.ascontiguousarray(frame.repeat(scale, axis=0).repeat(scale, axis=1))
        if writer is None:
            writer = imageio_ffmpeg.write_frames(str(path), large.shape[1::-1], fps=FPS, codec="libx264", quality=8,
                                                 macro_block_size=8)
            writer.send(None)
        writer.send(large)
    if writer is not None:
        writer.close()
