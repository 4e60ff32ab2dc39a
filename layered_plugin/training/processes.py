"""The processes of one run: how long they wait for one another, and what is said when one of them dies."""

import datetime
import multiprocessing.connection
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed

from layered_plugin import runs
from layered_plugin.calls import go_on_command
from layered_plugin.errors import UserError
from layered_plugin.signals import StopRequest

WAIT_SECONDS = 600  # A collective that takes longer than this ends the run; the environment may name another limit.

WAIT_ENV = "LAYERED_PLUGIN_WAIT_SECONDS"

GLOO_WORDS = ("gloo", "caused pair closure")  # In what it says of a lost process; the second without its name.

GRACE_SECONDS = 15  # What the other processes get to notice that one has died.


class Process(NamedTuple):
    """Which process of a run this is."""

    rank: int
    num_gpus: int  # Number of processes.
    device: torch.device  # Of this one.
    seed: int  # Of all random numbers, the same in all processes.


def wait_limit() -> float:
    """Seconds that a process waits for the others; UserError if the environment's limit is no positive number."""
    text = os.environ.get(WAIT_ENV, str(WAIT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 10**6:
        raise UserError(f"{WAIT_ENV} must be a number of seconds above 0, got {text!r}")
    return seconds


def join_group(kind: str, init_method: str, rank: int, num_gpus: int) -> None:
    """Make this process one of the group: over NCCL on CUDA, else over gloo."""
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo", init_method=init_method, rank=rank,
                                         world_size=num_gpus, timeout=datetime.timedelta(seconds=wait_limit()))


def is_lost_process(err: RuntimeError) -> bool:
    """Whether an error says that another process is gone or did not answer in time."""
    return isinstance(err, torch.distributed.DistError) or any(words in str(err) for words in GLOO_WORDS)


def supervise(context: Any, stop: StopRequest, run_dir_file: Path, grace: float = GRACE_SECONDS) -> int:
    """Wait for all processes; when one dies, end the others, and say who died of what and how to go on.

    Args:
        context: What ``torch.multiprocessing.start_processes`` returned.
        stop: Its SIGTERM or SIGHUP is passed on, as SIGTERM; Ctrl-C reaches the processes by itself.
        run_dir_file: File with the path of the run folder, that of a restart once there is one.
        grace: Seconds that the others get to end by themselves.

    Returns:
        The exit code: 0, or that of the first that failed after it had said why.

    Raises:
        UserError: A process was killed, or does not answer.
        torch.multiprocessing.ProcessRaisedException: A mistake of the program, with its traceback.
    """
    processes, forwarded = context.processes, False
    while True:
        codes = [process.exitcode for process in processes]  # Asked once: they may end while they are looked at.
        if any(code not in (None, 0) for code in codes):
            break
        alive = [process.sentinel for process, code in zip(processes, codes, strict=True) if code is None]
        if not alive:
            return 0
        multiprocessing.connection.wait(alive, timeout=1)
        if stop.received in ("SIGTERM", "SIGHUP") and not forwarded:
            for process in processes:
                process.terminate()
            forwarded = True
    end = time.monotonic() + grace
    while time.monotonic() < end and any(process.exitcode is None for process in processes):
        time.sleep(0.05)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    run_dir = os.fsdecode(run_dir_file.read_bytes())
    killed = [rank for rank, code in enumerate(codes) if code is not None and code < 0]
    if killed:
        name = signal.Signals(-codes[killed[0]]).name
        cause = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        raise UserError(f"process {killed[0]} of {len(codes)} was killed by {name}{cause}; {how_to_go_on(run_dir)}")
    for rank, file in enumerate(context.error_files):
        if Path(file).is_file() and codes[rank] not in (None, 0):
            context.join(timeout=0)  # Raises it.
    if None in codes:
        raise UserError(f"process {codes.index(None)} of {len(codes)} does not answer; {how_to_go_on(run_dir)}")
    return next(code for code in codes if code)


def how_to_go_on(run_dir: str) -> str:
    """Where a run's last training state is, and the command that goes on from it."""
    states = runs.training_states(run_dir)
    if not states:
        return f"nothing is saved in {run_dir} yet: start anew"
    return f"the last training state is {states[-1]}; go on with: {go_on_command('train_layered.py', run_dir)}"
