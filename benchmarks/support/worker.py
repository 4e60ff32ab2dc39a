"""Processes that take measurements in turn: each builds its networks once, works when told to, and idles in between.

A process of its own gives each variant its own StyleGAN2-ADA base, and its own peak of memory.
"""

import contextlib
import multiprocessing
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple
from unittest import mock

import click

PATIENCE_S = 5  # With a process that is in the middle of a step when the command ends.


class Failure(NamedTuple):
    """What a process sends in place of a result when it fails."""

    text: str


class Worker:
    """A fresh process that runs ``target(conn, **kwargs)``; what it prints is dropped, its results come by ``receive``.

    Args:
        name: For error texts.
        target: Function at the top level of a module; it sends results through ``conn`` and gets rounds from it.
        env: Environment variables of the process, beyond this one's.
        kwargs: Picklable arguments of target.
    """

    def __init__(self, name: str, target: Callable[..., None], env: Mapping[str, str] | None = None, **kwargs: Any):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._conn, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(target, theirs, kwargs))
        with mock.patch.dict(os.environ, env or {}):
            self._process.start()
        theirs.close()

    def receive(self) -> Any:
        """Wait for the next result.

        Raises:
            click.ClickException: The process failed or was killed.
        """
        try:
            result = self._conn.recv()
        except EOFError:
            self._process.join()
            raise click.ClickException(f"{self.name}: its process ended with code {self._process.exitcode}; "
                                       "was there enough memory?") from None
        if isinstance(result, Failure):
            raise click.ClickException(f"{self.name} failed:\n{result.text}")
        return result

    def round(self, seconds: float) -> Any:
        """Have one round of about so many seconds made, and return its result."""
        self._conn.send(seconds)
        return self.receive()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._conn.close()  # It ends when it next looks for a round, or writes a result.
        self._process.join(PATIENCE_S)
        self._process.kill()
        self._process.join()


def _serve(target: Callable[..., None], conn: Connection, kwargs: Mapping[str, Any]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # Nothing but results and failures leaves the process.
        os.dup2(null, stream)
    with contextlib.suppress(EOFError, BrokenPipeError):  # The command has ended.
        try:
            target(conn, **kwargs)
        except (Exception, SystemExit):
            conn.send(Failure(traceback.format_exc().strip()))


def rounds(conn: Connection) -> Iterator[float]:
    """Seconds of each round that is asked for; ends with the command."""
    with contextlib.suppress(EOFError):
        while True:
            yield conn.recv()


def peak_memory_mb() -> float:
    """Largest resident memory that this process has had so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
