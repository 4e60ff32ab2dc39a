"""Memory of a command and all its processes while it runs."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
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
        The proportional set size of it and all its processes together: pages that they share count once.

    Raises:
        click.ClickException: It failed; the text has the end of what it printed.
    """
    call = psutil.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.set_blocking(call.stderr.fileno(), False)
    start, samples, said = time.monotonic(), [], b""
    while call.poll() is None:
        said = (said + (call.stderr.read() or b""))[-2000:]
        samples.append(Sample(time.monotonic() - start, _used_mb(call)))
        time.sleep(every)
    if call.returncode != 0:
        said += call.stderr.read() or b""
        raise click.ClickException(f"{command[0]} ended with {call.returncode}: {said.decode(errors='replace')[-500:]}")
    return samples


def _used_mb(call: psutil.Popen) -> float:
    used = 0
    for process in [call, *call.children(recursive=True)]:
        try:
            used += process.memory_full_info().pss
        except psutil.Error:
            continue
    return used / 1e6
