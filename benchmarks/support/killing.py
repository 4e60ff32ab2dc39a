"""Kill a command at a moment, and see how it ends; commands run in copies of this process, which import nothing."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import invert
import train_layered
from layered_plugin.training import scene_variety

STUCK = 300  # Seconds after which a call that should have ended is taken for one that never will.

LEFT_ALONE = 120  # Seconds that workers have to notice that their main process is gone; some may still be starting.


class Work(NamedTuple):
    """What is killed.

    Fields:
        command: For a folder, the words of a call that begins there, or goes on with what is there.
        results: What is compared, as patterns of files.
    """

    command: Callable[[Path], list[str]]
    results: Sequence[str]


def start(words: list[str], log: Path) -> int:
    """Run a command in a copy of this process, which need not import anything; returns its id."""
    import torch._dynamo  # noqa: F401 - every optimizer imports it, which takes longer than the work of a copy.

    child = os.fork()
    if child:
        return child
    code: Any = 1
    try:
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = words
        scene_variety.NUM_SCENES, scene_variety.STEPS = 10, 2  # Else most of the time of trainings so short.
        main = train_layered.main if words[0] == "train_layered.py" else invert.main
        main(words[1:], prog_name=words[0])
    except SystemExit as err:
        code = err.code
    finally:
        os._exit(code if isinstance(code, int) else 1)


def end_of(child: int, seconds: float) -> int | None:
    """How a call ended, as by subprocess; None if it has not within so many seconds."""
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.005)


def go_on_to_the_end(work: Work, folder: Path, log: Path) -> int:
    """Give the command; returns its exit code, -SIGALRM if it got stuck."""
    child = start(work.command(folder), log)
    code = end_of(child, STUCK)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return -signal.SIGALRM
    return code


def kill_one(work: Work, folder: Path, moment: float, chance: float, log: Path) -> dict[str, Any] | None:
    """Give a command, kill it or one of its workers after so many seconds, and see how it ends.

    Args:
        work: Of which the command is.
        folder: It works in.
        moment: Seconds from its start.
        chance: In [0, 1), by which the process is chosen: at a half the main one.
        log: What it prints.

    Returns:
        Who was killed, exit code, number of workers that outlived a killed main process; None if it came too late.
    """
    child = start(work.command(folder), log)
    if end_of(child, moment) is not None:
        return None
    main = psutil.Process(child)
    workers = main.children(recursive=True)
    choice = int((chance - 0.5) * 2 * len(workers)) if chance >= 0.5 else -1
    victim = workers[choice] if 0 <= choice < len(workers) else main
    files = sum(path.is_file() for path in folder.rglob("*"))
    victim.kill()
    code = end_of(child, STUCK)
    _gone, left = psutil.wait_procs(workers, timeout=LEFT_ALONE)
    for process in (*left, *([main] if code is None else [])):
        process.kill()
    return dict(killed="main" if victim is main else "worker", files_there=files, exit_code=code, outlived=len(left))
