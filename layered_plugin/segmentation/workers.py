"""What is done with each picture before and after the network, here or in processes of their own.

A task takes and gives bytes and small arrays, and knows no file: whoever runs it reads and writes. A picture is decoded
once for the network and again to be finished, which costs less than to keep it or to send its pixels.
"""

import io
import multiprocessing
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.pictures import decode, to_rgb
from layered_plugin.segmentation.edges import cut_out, is_enlarged
from layered_plugin.segmentation.full_size import Drawn, enlarge, shrink
from layered_plugin.segmentation.outputs import encode_png
from layered_plugin.signals import end_with_parent


class Finish(NamedTuple):
    """What becomes of a picture and what the network says of it; fields as options of ``invert.py segment``."""

    threshold: float
    soft: bool
    cutouts: bool
    min_confidence: float
    sharp: bool
    margin: float
    letterbox: bool


class Finished(NamedTuple):
    """Results of one picture.

    Fields:
        parts: Encoded pictures (PNG) by what they are: masks, cutouts if wanted; of encoders also layers.
        entry: For the manifest: width, height, coverage, confidence, bytes and crc32 of the picture's file, whether it
            is doubtful; of encoders also error.
    """

    parts: dict[str, bytes]
    entry: dict[str, Any]


def to_squares(contents: Sequence[bytes], resolution: int, letterbox: bool) -> list[np.ndarray | str]:
    """Decode pictures for the network: RGB squares [3, R, R], uint8, or why one can't be read."""
    out: list[np.ndarray | str] = []
    for data in contents:
        try:
            out.append(shrink(decode(io.BytesIO(data)), resolution, letterbox))
        except UNREADABLE as err:
            out.append(str(err))
    return out


def finish(drawn: Sequence[tuple[bytes, Drawn]], how: Finish) -> list[Finished]:
    """Bring what the network says of pictures, whose files can be read, to their own size, and encode it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Always, since PyTorch interpolates three channels otherwise with more.
    try:
        return [_finish(data, result, how) for data, result in drawn]
    finally:
        torch.set_num_threads(threads)


def _finish(data: bytes, drawn: Drawn, how: Finish) -> Finished:
    picture = to_rgb(decode(io.BytesIO(data)))
    result = enlarge(drawn, picture, how.sharp, how.letterbox, how.margin)
    inside = result.mask >= how.threshold
    opacity = (result.mask * 255).round().astype(np.uint8) if how.soft else inside.astype(np.uint8) * 255
    parts = dict(masks=encode_png(PIL.Image.fromarray(opacity)))
    if how.cutouts:
        estimate = how.sharp and is_enlarged(picture.size, drawn.mask.shape[0])
        parts["cutouts"] = encode_png(cut_out(picture, result.mask, opacity, estimate))
    for name, pixels in dict(backgrounds=result.bg, foregrounds=result.fg, reconstructions=result.composite).items():
        if pixels is not None:
            parts[name] = encode_png(PIL.Image.fromarray(pixels))
    entry: dict[str, Any] = dict(width=picture.width, height=picture.height,
                                 coverage=round(np.count_nonzero(inside) / inside.size, 4),
                                 confidence=round(result.confidence, 4))
    entry.update(bytes=len(data), crc32=zlib.crc32(data))  # To notice when it has changed.
    if result.confidence < how.min_confidence:
        entry["doubtful"] = True
    if result.error is not None:
        entry["error"] = round(result.error, 3)
    return Finished(parts, entry)


@contextmanager
def threads_beside(workers: int) -> Iterator[None]:
    """Compute in this process with a quarter of its threads while so many others are busy, in whose way they would be.

    For a network that takes a small part of the work (docs/scaling.md has how small).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 4) if workers else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Here(Executor):
    """Runs tasks at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def task_executor(workers: int) -> Iterator[Executor]:
    """Something to hand tasks to: so many processes; with 0 tasks run here."""
    if workers == 0:
        yield Here()
        return
    # New processes start from a server that has imported the package, quickly and without any thread of this one.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["__main__", __name__])
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)  # There are as many processes as cores.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The main process stops this one.
    end_with_parent()
