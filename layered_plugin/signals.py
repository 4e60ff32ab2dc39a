"""Ctrl-C and SIGTERM: finish the step, save, then stop. SIGKILL: leave no process behind."""

import multiprocessing
import os
import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """Note SIGTERM and Ctrl-C, so that the loop can finish its step and save; a second one acts at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def end_with_parent() -> None:
    """In a process of a pool: do not outlive a main process that was killed; waiting for tasks would never end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
