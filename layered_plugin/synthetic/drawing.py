"""Data sets drawn by several processes; each picture depends on the job and its own number alone."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Protocol

CHUNK = 64  # pictures a worker draws at a time


class Job(Protocol):
    """All that a worker needs."""

    def draw(self, numbers: range) -> list[Any]:
        """Draw the pictures of the given numbers."""
        ...


_job: Job | None = None  # set once in each worker, so that the material travels once


def _start_worker(job: Job) -> None:
    global _job
    _job = job


def _draw_in_worker(numbers: range) -> list[Any]:
    if _job is None:
        raise RuntimeError("worker was not started through draw_all")
    return _job.draw(numbers)


def draw_all(job: Job, num: int, jobs: int = 1) -> Iterator[Any]:
    """Draw a whole data set, in order; the pictures do not depend on the number of processes, 1 = this one."""
    chunks = [range(first, min(first + CHUNK, num)) for first in range(0, num, CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            yield from job.draw(chunk)
        return
    # Fresh processes: forking one that runs threads may hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (job,)) as pool:
        for drawn in pool.map(_draw_in_worker, chunks):
            yield from drawn
