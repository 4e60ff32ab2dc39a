"""Memory of a command and all its processes while it runs."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import psutil

ROOT = Path(__file__).resolve().parent.parent.parent


class Sample(NamedTuple):
    """Seconds since the start, and memory then, in MB."""

    seconds: float
    used_mb: float


def sample_memory(command: Sequence[str], every: float = 1.0) -> list[Sample]:
    """Run a command of this repository to its end, and look at its memory now and then.

    Args:
        command: Script and options.
        every: Seconds between two looks.

    Returns:
        That of it and all its processes together, mapped files included; pages that they share count once.

    Raises:
        click.ClickException: It failed; the text has the end of what it printed.
    """
    call = psutil.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.set_blocking(call.stderr.fileno(), False)
    start, samples, said = time.monotonic(), [], b""
    while call.poll() is None:
        said = (said + (call.stderr.read() or b""))[-2000:]
        samples.append(Sample(time.monotonic() - start, used_mb([call, *call.children(recursive=True)])))
        time.sleep(every)
    if call.returncode != 0:
        said += call.stderr.read() or b""
        raise click.ClickException(f"{command[0]} ended with {call.returncode}: {said.decode(errors='replace')[-500:]}")
    return samples


def peaks_of_parts(samples: Sequence[Sample], parts: int) -> list[float]:
    """Most memory in each of so many parts of a run, equally many samples each, in MB."""
    bounds = [len(samples) * idx // parts for idx in range(parts + 1)]
    return [round(max(one.used_mb for one in samples[first:max(last, first + 1)]), 1)
            for first, last in zip(bounds, bounds[1:], strict=False)]


def used_mb(processes: Iterable[psutil.Process]) -> float:
    """Memory of processes together, in MB; pages that they share count once.

    Unlike the proportional set size, it counts files in full that other programs on the machine map as well.
    """
    own, files = 0, Counter[str]()
    for process in processes:
        try:
            maps = process.memory_maps()
            own += _private_kb(process.pid) * 1024
        except (psutil.Error, OSError):
            continue
        # Of each file the most that any of them has.
        files |= Counter({one.path: one.rss - one.anonymous for one in maps if not one.path.startswith("[")})
    return (own + files.total()) / 1e6


def _private_kb(pid: int) -> int:
    """Memory of no file; pages that processes share since a fork are divided among them."""
    found = re.search(r"^Pss_Anon: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return 0 if found is None else int(found[1])
