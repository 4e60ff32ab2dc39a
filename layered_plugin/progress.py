"""Show how far a long command is: a bar on a terminal, one plain line per tenth elsewhere.

Everything goes to standard error, so that standard output keeps only results.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def on_terminal() -> bool:
    """Whether the process's own standard error is a terminal, also while a log file listens in on it."""
    return sys.__stderr__ is not None and sys.__stderr__.isatty()


def progress(items: Iterable[T], total: int, label: str, before: int = 0) -> Iterator[T]:
    """Pass the items on while reporting how many of `total` have gone by.

    Args:
        items: What to iterate over.
        total: Number of items expected, those before among them.
        label: What the items are, shown in front.
        before: How many went by earlier, in a run that was interrupted.

    Returns:
        The items, unchanged and in order.
    """
    if on_terminal():
        yield from tqdm(items, initial=before, total=total, desc=label, unit="", leave=False, file=sys.__stderr__)
        return
    start, shown = time.monotonic(), before * 10 // max(total, 1)
    for done, item in enumerate(items, start=before + 1):
        yield item
        tenth = done * 10 // total
        if tenth > shown:
            shown, seconds = tenth, time.monotonic() - start
            left = f", about {seconds / (done - before) * (total - done):.0f} s left" if done < total else ""
            print(f"{label}: {done}/{total} in {seconds:.0f} s{left}", file=sys.stderr, flush=True)
