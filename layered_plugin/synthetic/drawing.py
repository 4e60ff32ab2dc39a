"""Data sets drawn by several processes; each picture depends on the seed and its own number alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

CHUNK = 64  # pictures a worker draws at a time

Draw = Callable[[np.random.Generator], Any]  # one picture, from its own source of random choices

_worker: tuple[Draw, int] | None = None  # set once in each worker, so that the material travels once


def _start_worker(draw: Draw, seed: int) -> None:
    global _worker
    _worker = draw, seed


def _draw_in_worker(numbers: range) -> list[Any]:
    if _worker is None:
        raise RuntimeError("worker was not started through draw_all")
    return _draw_numbers(*_worker, numbers)


def _draw_numbers(draw: Draw, seed: int, numbers: range) -> list[Any]:
    return [draw(np.random.default_rng([seed, number])) for number in numbers]


def draw_all(draw: Draw, num: int, seed: int, jobs: int) -> Iterator[Any]:
    """Draw a whole data set, in order; the pictures do not depend on the number of processes, 1 = this one."""
    chunks = [range(first, min(first + CHUNK, num)) for first in range(0, num, CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            yield from _draw_numbers(draw, seed, chunk)
        return
    # Fresh processes: forking one that runs threads may hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (draw, seed)) as pool:
        for drawn in pool.map(_draw_in_worker, chunks):
            yield from drawn
