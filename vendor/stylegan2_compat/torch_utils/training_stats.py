"""Statistics of named values over iterations, devices and processes: how many, their mean and their deviation.

Of a reported value only its sum and the sum of its squares are kept, single numbers that are computed where the value
lies. They are added up in double precision on the host, so a device needs no double precision.
"""

import math
import re
from typing import Any

import dnnlib
import numpy as np
import torch

_MAX_UNREAD = 1024  # Reports of one name that may wait on a device; reading them makes the host wait for it.


class _Account:
    """What was reported under one name since it was last asked for."""

    def __init__(self) -> None:
        self._moments = np.zeros(3)  # Count, sum, sum of squares.
        self._unread: dict[torch.device, list[torch.Tensor]] = {}  # Pairs of sums, float32, oldest first.

    def add(self, value: torch.Tensor) -> None:
        values = value.detach().flatten().to(torch.float32)
        waiting = self._unread.setdefault(values.device, [])
        waiting.append(torch.stack([values.sum(), values.square().sum()]))
        self._moments[0] += values.numel()
        if len(waiting) >= _MAX_UNREAD:
            self._read()

    def _read(self) -> None:
        for waiting in self._unread.values():
            for sums in torch.stack(waiting).tolist():
                self._moments[1:] += sums
        self._unread.clear()

    def take(self) -> np.ndarray:
        """Return the moments, [3], and start again from zero."""
        self._read()
        moments, self._moments = self._moments, np.zeros(3)
        return moments


class _Ledger:
    """The accounts of this process, and the balance of all processes."""

    def __init__(self) -> None:
        self.rank = 0
        self.sync_device: torch.device | None = None
        self.was_settled = False
        self.accounts: dict[str, _Account] = {}  # In the order of the first reports.
        self._balance: dict[str, np.ndarray] = {}

    def settle(self, names: list[str]) -> dict[str, np.ndarray]:
        """Add what is new under the names, in all processes, to the balance; returns their balance."""
        self.was_settled = True
        if not names:
            return {}
        news = torch.from_numpy(np.stack([self.accounts[name].take() for name in names]))
        if self.sync_device is not None:
            news = news.to(self.sync_device)
            torch.distributed.all_reduce(news)
        for name, moments in zip(names, news.cpu().numpy(), strict=True):
            self._balance[name] = self._balance.get(name, 0) + moments
        return {name: self._balance[name] for name in names}


_ledger = _Ledger()


def init_multiprocessing(rank: int, sync_device: torch.device | str | None) -> None:
    """Tell the module about the other processes; needed before the first Collector of a multi-process run.

    Args:
        rank: Rank of this process.
        sync_device: Device on which moments are exchanged (CUDA for nccl, CPU for gloo), None = single process.

    Raises:
        RuntimeError: If a Collector has already synchronised under another setting.
    """
    device = None if sync_device is None else torch.device(sync_device)
    if _ledger.was_settled and (_ledger.rank, _ledger.sync_device) != (rank, device):
        raise RuntimeError("init_multiprocessing must be called before the first Collector is made or updated")
    _ledger.rank = rank
    _ledger.sync_device = device


def report(name: str, value: Any) -> Any:
    """Add the elements of a value to the statistics of a name.

    In a multi-process run every rank must report the same names; `report0` and empty values do so without adding.

    Args:
        name: Name under which a Collector finds the statistics, for example "Loss/G/loss".
        value: Number, list or tensor of any shape, on any device; an empty one only makes the name known.

    Returns:
        The value, unchanged.
    """
    account = _ledger.accounts.setdefault(name, _Account())
    tensor = torch.as_tensor(value)
    if tensor.numel() > 0:
        account.add(tensor)
    return value


def report0(name: str, value: Any) -> Any:
    """Like `report`, but only the value of rank 0 counts; returns the value."""
    report(name, value if _ledger.rank == 0 else [])
    return value


class Collector:
    """Statistics of the values reported between two calls of `update`.

    Construction, like `update`, is a collective call in a multi-process run: every rank must make it. Values reported
    before the construction are left out. Any number of collectors can watch the same names.

    Args:
        regex: Pattern that a name must match completely.
        keep_previous: Where nothing was reported between two updates, keep the older statistics instead of none.
    """

    def __init__(self, regex: str = ".*", keep_previous: bool = True) -> None:
        self._pattern = re.compile(regex)
        self._keep_previous = keep_previous
        self._before = _ledger.settle(self.names())
        self._between: dict[str, np.ndarray] = {}

    def names(self) -> list[str]:
        """List the matching names reported so far, in the order of their first report."""
        return list(filter(self._pattern.fullmatch, _ledger.accounts))

    def update(self) -> None:
        """Replace the statistics by those of the values reported since the previous update."""
        after = _ledger.settle(self.names())
        between = {name: moments - self._before.get(name, 0) for name, moments in after.items()}
        between = {name: moments for name, moments in between.items() if moments[0] > 0}
        self._between = self._between | between if self._keep_previous else between
        self._before.update(after)

    def _moments(self, name: str) -> tuple[float, float, float]:
        if not self._pattern.fullmatch(name):
            raise ValueError(f"Expected argument `name` to match {self._pattern.pattern!r}, but got {name!r}")
        count, total, squares = self._between.get(name, np.zeros(3)).tolist()
        return count, total, squares

    def num(self, name: str) -> int:
        """Count the values between the last two updates; ValueError if the name does not match, as below."""
        return int(self._moments(name)[0])

    def mean(self, name: str) -> float:
        """Return the mean of the values, NaN if there are none."""
        count, total, _squares = self._moments(name)
        return total / count if count else math.nan

    def std(self, name: str) -> float:
        """Return the standard deviation sqrt(max(E[x^2] - E[x]^2, 0)), 0 for one value, NaN if there are none."""
        count, total, squares = self._moments(name)
        if not count or not math.isfinite(total):
            return math.nan
        return 0.0 if count == 1 else math.sqrt(max(squares / count - (total / count) ** 2, 0.0))

    def as_dict(self) -> dnnlib.EasyDict:
        """Return name -> EasyDict(num, mean, std), in the order of `names`."""
        names = self.names()
        stats = (dnnlib.EasyDict(num=self.num(name), mean=self.mean(name), std=self.std(name)) for name in names)
        return dnnlib.EasyDict(zip(names, stats, strict=True))

    def __getitem__(self, name: str) -> float:
        """Return the mean, as `mean` does."""
        return self.mean(name)
