"""What the steps of a GPU day share: the process of a step, its records, its deadline, its clock."""

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

RESULTS = "results.jsonl"


class Context(NamedTuple):
    """What a step's process was told."""

    step: str
    outdir: Path
    workdir: Path  # For what is too large to keep; steps of one call find each other's files there.
    device: str  # cpu or cuda.
    quick: bool  # Tiny sizes, to rehearse.
    deadline: float  # Of ``time.time``: the process is ended then.
    data: Path | None  # Folder of pictures and masks, None = pictures are made up.
    train_args: str  # Further options of train_layered.py, empty = the step's own.

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.time()

    def record(self, case: str, **values: Any) -> None:
        """Append a result at once, so that nothing is lost if the process dies."""
        write_record(self.outdir, step=self.step, case=case, **values)


def write_record(outdir: Path, **values: Any) -> None:
    """Append a line to the results."""
    with open(outdir / RESULTS, "a") as file:
        file.write(json.dumps(values) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_records(outdir: Path) -> list[dict[str, Any]]:
    """All results so far, in order; a line that a killed process left unfinished is skipped."""
    records = []
    if (outdir / RESULTS).is_file():
        for line in (outdir / RESULTS).read_text().splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return records


def run_cases(context: Context, cases: Iterable[tuple[str, Callable[[], dict[str, Any]]]], seconds: float) -> int:
    """Run cases until the time is up; a case that fails is recorded, and the next one runs.

    Cases that an earlier process of the step began are left out: one of them may have ended it.

    Args:
        context: Of the step.
        cases: Name, and a function that returns the values to record.
        seconds: That a case takes, at least: none begins with less time left.

    Returns:
        0, or 1 if the device does not answer any more, so that only a new process can go on.
    """
    begun = {record["case"] for record in read_records(context.outdir) if record["step"] == context.step}
    for name, work in cases:
        if name in begun:
            continue
        if context.seconds_left < seconds:
            context.record(name, status="left out", why="no time left")
            continue
        context.record(name, status="begun")
        start = time.perf_counter()
        try:
            values = work()
        except Exception as err:
            traceback.print_exc()
            context.record(name, status="failed", error=f"{type(err).__name__}: {err}"[:500],
                           wall_s=time.perf_counter() - start)
            if not device_answers(context.device):
                return 1
        else:
            context.record(name, status="ok", wall_s=time.perf_counter() - start, **values)
        free_memory(context.device)
    return 0


def device_answers(device: str) -> bool:
    """Whether the device still computes; after an illegal access it never does again in this process."""
    try:
        return float((torch.ones(2, device=device) + 1).sum()) == 4.0
    except RuntimeError:
        return False


def free_memory(device: str) -> None:
    """Give back what a case leaves behind."""
    import gc

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def synchronize(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_per_call(work: Callable[[], object], device: str, least_s: float = 0.1, warm_up: int = 3) -> float:
    """Mean time of a call, of as many in a row as take so long; the best of three such rows."""
    for _ in range(warm_up):
        work()
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    count = max(1, min(1000, int(least_s / max(time.perf_counter() - start, 1e-7))))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(count):
            work()
        synchronize(device)
        best = min(best, (time.perf_counter() - start) / count)
    return best
