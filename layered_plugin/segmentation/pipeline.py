"""Groups of pictures through decoding, the network and finishing, each stage at work while the others are.

The network runs here; what comes before and after it is given to an executor, whose tasks are in ``workers``.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from layered_plugin.segmentation.segmenter import Refinement, Segmenter
from layered_plugin.segmentation.workers import Finish, Finished, finish, to_squares

AHEAD = 2  # Groups that are decoded, and that are finished, while another is in the network.

T = TypeVar("T")


class Item(NamedTuple):
    """One picture of a group."""

    name: str
    wanted: bool  # Is its result? Others only keep the group's company what it was.
    content: bytes | str  # Of its file, or why it can't be had.


@dataclass
class _Group:
    items: list[Item]
    readable: list[Item] = field(default_factory=list)
    squares: list[Future] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    finished: list[Future] = field(default_factory=list)


@dataclass
class Pipeline:
    """A model, and what its results are made into."""

    segmenter: Segmenter
    refinement: Refinement  # What is done beyond one pass through the network.
    how: Finish  # What becomes of a picture and its result.
    cannot_read: Callable[[str, str], str]  # Text for a name and the reason why its picture can't be decoded.
    tasks: Executor  # Runs decoding and finishing.
    workers: int  # Number of its processes; 0 = none.

    def run(self, groups: Iterable[list[Item]]) -> Iterator[tuple[str, Finished | str]]:
        """Results of the pictures that are wanted, or why there is none, by name and in the order they come."""
        ahead = AHEAD if self.workers else 0
        decoding = _look_ahead((self._decode(items) for items in groups), ahead)
        finishing = _look_ahead((self._draw(group) for group in decoding), ahead)
        for group in finishing:
            results = (result for future in group.finished for result in future.result())
            for item in group.items:
                if item.wanted:
                    yield item.name, group.failed[item.name] if item.name in group.failed else next(results)

    def _decode(self, items: list[Item]) -> _Group:
        group = _Group(items, [item for item in items if isinstance(item.content, bytes)])
        group.failed = {item.name: item.content for item in items if isinstance(item.content, str)}
        contents = [item.content for item in group.readable]
        group.squares = [self.tasks.submit(to_squares, part, self.segmenter.resolution, self.segmenter.letterbox)
                         for part in self._shares(contents)]
        return group

    def _draw(self, group: _Group) -> _Group:
        squares = [square for future in group.squares for square in future.result()]
        for item, square in zip(group.readable, squares, strict=True):
            if isinstance(square, str):
                group.failed[item.name] = self.cannot_read(item.name, square)
        readable = [item for item in group.readable if item.name not in group.failed]
        if not any(item.wanted for item in readable):
            return group
        drawn = self.segmenter.draw(np.stack([square for square in squares if not isinstance(square, str)]),
                                    [item.name for item in readable], self.refinement)
        wanted = [(item.content, result) for item, result in zip(readable, drawn, strict=True) if item.wanted]
        group.finished = [self.tasks.submit(finish, part, self.how) for part in self._shares(wanted)]
        return group

    def _shares(self, values: list[Any]) -> Iterator[list[Any]]:
        """Two for each worker, so that all are busy with a group to its end."""
        size = max(1, -(-len(values) // (2 * max(self.workers, 1))))
        return (values[start:start + size] for start in range(0, len(values), size))


def _look_ahead(items: Iterator[T], num: int) -> Iterator[T]:
    """The items, of which so many more have been started than were handed out."""
    started: deque[T] = deque()
    for item in items:
        started.append(item)
        if len(started) > num:
            yield started.popleft()
    yield from started
