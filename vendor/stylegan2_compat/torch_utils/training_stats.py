"""Collect statistics of named values over iterations, devices and processes.

Values are reduced to [count, sum, sum of squares] where they are; only these moments travel.
"""

import math
import re
from typing import Any

import dnnlib
import torch

_NUM_MOMENTS = 3
_REDUCE_DTYPE = torch.float32
_COUNTER_DTYPE = torch.float64

_rank = 0
_exchange_device: torch.device | None = None
_has_exchanged = False
# Moments since the last sync, by name and device; the order of the names is that of their first report.
_pending: dict[str, dict[torch.device, torch.Tensor]] = {}
# Moments of all processes up to the last sync, on the CPU.
_totals: dict[str, torch.Tensor] = {}


def init_multiprocessing(rank: int, sync_device: torch.device | str | None) -> None:
    """Tell the module about the other processes; needed before the first Collector of a multi-process run.

    Args:
        rank: Rank of this process.
        sync_device: Device on which moments are exchanged (CUDA for nccl, CPU for gloo), None = single process.

    Raises:
        RuntimeError: If a Collector has already synchronised under another setting.
    """
    global _rank, _exchange_device
    device = torch.device(sync_device) if sync_device is not None else None
    if _has_exchanged and (rank, device) != (_rank, _exchange_device):
        raise RuntimeError("init_multiprocessing must be called before the first Collector is made or updated")
    _rank, _exchange_device = rank, device


@torch.no_grad()
def report(name: str, value: Any) -> Any:
    """Add the elements of a value to the statistics of a name.

    In a multi-process run every rank must report the same names; `report0` and empty values do so without adding.

    Args:
        name: Name under which a Collector finds the statistics, for example "Loss/G/loss".
        value: Number, list or tensor of any shape; an empty one only makes the name known.

    Returns:
        The value, unchanged.
    """
    by_device = _pending.setdefault(name, {})
    elems = torch.as_tensor(value)
    if elems.numel() == 0:
        return value
    elems = elems.detach().flatten().to(_REDUCE_DTYPE)
    if elems.device not in by_device:
        by_device[elems.device] = torch.zeros([_NUM_MOMENTS], dtype=_COUNTER_DTYPE, device=elems.device)
    count, total, squares = by_device[elems.device]
    count += elems.numel()
    total += elems.sum()
    squares += elems.square().sum()
    return value


def report0(name: str, value: Any) -> Any:
    """Like `report`, but only the value of rank 0 counts; returns the value."""
    report(name, value if _rank == 0 else [])
    return value


@torch.no_grad()
def _exchange(names: list[str]) -> dict[str, torch.Tensor]:
    """Move the pending moments of the names, summed over all processes, to the cumulative ones; returns these."""
    global _has_exchanged
    _has_exchanged = True
    if not names:
        return {}

    device = _exchange_device if _exchange_device is not None else torch.device("cpu")
    deltas = torch.zeros([len(names), _NUM_MOMENTS], dtype=_COUNTER_DTYPE, device=device)
    for row, name in zip(deltas, names, strict=True):
        for moments in _pending[name].values():
            row.add_(moments.to(device))
            moments.zero_()
    if _exchange_device is not None:
        torch.distributed.all_reduce(deltas)

    for name, delta in zip(names, deltas.cpu(), strict=True):
        _totals[name] = _totals.get(name, torch.zeros_like(delta)) + delta
    return {name: _totals[name] for name in names}


class Collector:
    """Statistics of the values reported between two calls of `update`.

    Construction, like `update`, is a collective call in a multi-process run: every rank must make it. Values reported
    before the construction are left out. Any number of collectors can watch the same names.

    Args:
        regex: Pattern that a name must match completely.
        keep_previous: Where nothing was reported between two updates, keep the older statistics instead of none.
    """

    def __init__(self, regex: str = ".*", keep_previous: bool = True) -> None:
        self._regex = re.compile(regex)
        self._keep_previous = keep_previous
        self._seen = _exchange(self.names())
        self._latest: dict[str, torch.Tensor] = {}

    def names(self) -> list[str]:
        """List the matching names reported so far, in the order of their first report."""
        return [name for name in _pending if self._regex.fullmatch(name)]

    def update(self) -> None:
        """Replace the statistics by those of the values reported since the previous update."""
        if not self._keep_previous:
            self._latest.clear()
        for name, total in _exchange(self.names()).items():
            delta = total - self._seen.get(name, torch.zeros_like(total))
            self._seen[name] = total
            if float(delta[0]) != 0:
                self._latest[name] = delta

    def _latest_of(self, name: str) -> tuple[float, float, float]:
        if not self._regex.fullmatch(name):
            raise ValueError(f"Expected argument `name` to match {self._regex.pattern!r}, but got {name!r}")
        count, total, squares = self._latest.get(name, torch.zeros([_NUM_MOMENTS])).tolist()
        return count, total, squares

    def num(self, name: str) -> int:
        """Count the values between the last two updates; ValueError if the name does not match, as below."""
        return int(self._latest_of(name)[0])

    def mean(self, name: str) -> float:
        """Return the mean of the values, NaN if there are none."""
        count, total, _squares = self._latest_of(name)
        return total / count if count else float("nan")

    def std(self, name: str) -> float:
        """Return the standard deviation sqrt(max(E[x^2] - E[x]^2, 0)), 0 for one value, NaN if there are none."""
        count, total, squares = self._latest_of(name)
        if not count or not math.isfinite(total):
            return float("nan")
        return 0.0 if count == 1 else max(squares / count - (total / count) ** 2, 0.0) ** 0.5

    def as_dict(self) -> dnnlib.EasyDict:
        """Return name -> EasyDict(num, mean, std), in the order of `names`."""
        return dnnlib.EasyDict(
            (name, dnnlib.EasyDict(num=self.num(name), mean=self.mean(name), std=self.std(name)))
            for name in self.names()
        )

    def __getitem__(self, name: str) -> float:
        """Return the mean, as `mean` does."""
        return self.mean(name)
