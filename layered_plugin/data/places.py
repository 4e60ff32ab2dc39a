"""Where the files of an archive are: sorted names and rows of numbers, a fifth of what Python's objects take."""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise

import numpy as np


class Places:
    """Files of an archive by name; of names that come twice the last counts.

    Args:
        names: In the order of the rows.
        rows: Numbers of each file, [N] of any dtype.
    """

    def __init__(self, names: Iterable[str], rows: np.ndarray) -> None:
        # Cut out of one text, names lie together, and what stood between them is free again.
        unsorted = "\0".join(names).split("\0") if len(rows) else []
        order = sorted(range(len(unsorted)), key=unsorted.__getitem__)
        order = [pos for pos, after in pairwise(order) if unsorted[pos] != unsorted[after]] + order[-1:]
        self.names, self._rows = [unsorted[pos] for pos in order], rows[order]

    def __getitem__(self, name: str) -> np.void:
        """Numbers of a file. Raises KeyError if there is none."""
        pos = bisect_left(self.names, name)
        if pos == len(self.names) or self.names[pos] != name:
            raise KeyError(f"There is no item named {name!r} in the archive")
        return self._rows[pos]
