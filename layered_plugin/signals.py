"""Ctrl-C, SIGTERM, a closed terminal: finish the step, save, then stop. SIGKILL: leave no process behind."""

import multiprocessing
import os
import signal
import threading
from types import FrameType
from typing import Any, ClassVar

STOPS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


class StopRequest:
    """Note signals that ask to stop, so that the loop can finish its step and save; a second one acts at once.

    But SIGHUP does not: a terminal that is closed may send it twice, itself and by the shell. Where it is ignored, as
    by nohup, it stays so. Requests may lie within one another: what one receives, all have received.
    """

    _open: ClassVar[list["StopRequest"]] = []

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self.received = self._open[-1].received if self._open else None
        self._open.append(self)
        for number in STOPS:
            if number in (signal.SIGTERM, signal.SIGINT) or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._open.remove(self)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        for request in self._open:
            request.received = signal.Signals(number).name
        if number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def end_with_parent() -> None:
    """In a process of a pool: do not outlive a main process that was killed; waiting for tasks would never end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
