"""The project's commands as a user calls them: in this process, or in one of their own."""

import atexit
import functools
import glob
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from click.testing import CliRunner, Result

import train_layered

ROOT = Path(__file__).resolve().parent.parent


def invoke(command: click.Command, *args: object) -> Result:
    """Call a command in this process; it may fail, but not with a traceback."""
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def dry(data: Path, *args: object) -> dict:
    """Parameters that a training would have."""
    result = invoke(train_layered.main, "--outdir=out", f"--data={data}", "-n", *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def call(*args: object) -> subprocess.CompletedProcess:
    """Run `python ARGS` at the root of the repository, with one thread."""
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS="1"),
                          text=True, capture_output=True, timeout=300)


def start_copy(command: Sequence[object], **kwargs: Any) -> subprocess.Popen:
    """As ``subprocess.Popen`` of `PYTHON ARGS`, in a copy of this process, which need not import PyTorch.

    That takes four seconds less of a core. It draws as few scenes for its statistics as the tests do.
    """
    import torch._dynamo  # Every optimizer does so, which takes two seconds.

    words = [str(word) for word in command]
    if torch.cuda.is_available():  # A process that has used a GPU can't be copied.
        return subprocess.Popen(words, **kwargs)
    run = functools.partial(_run_here, words[1:], kwargs.get("env"), _open_files())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of threads, which a copy lacks.
        return subprocess.Popen(words, preexec_fn=run, **kwargs)


def run_copy(command: Sequence[object], capture_output: bool = False, **kwargs: Any) -> subprocess.CompletedProcess:
    """As ``subprocess.run``, by ``start_copy``."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE) if capture_output else {}
    with start_copy(command, **pipes, **kwargs) as process:
        output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


# In the place of the module `subprocess` where only Python is called.
COPIES = SimpleNamespace(**vars(subprocess) | dict(Popen=start_copy, run=run_copy))


def _open_files() -> set[int]:
    return {int(name) for name in os.listdir("/dev/fd") if os.path.exists(f"/dev/fd/{name}")}


def _run_here(words: list[str], env: dict[str, str] | None, shared: set[int]) -> None:
    """Run `python WORDS` and end this process, which Popen has made and would now give to another program."""
    atexit._clear()  # They tidy up what the tests still need.
    for number in _open_files() - shared - {0, 1, 2}:  # Popen waits for the end of its pipe.
        os.close(number)
    os.environ.update(env or {})
    warnings.resetwarnings()
    sys.stdout, sys.stderr, code = open(1, "w", closefd=False), open(2, "w", closefd=False), 0
    try:
        kind, sys.argv = words[0], words if words[0] != "-m" else words[1:]
        if kind == "-m":
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as err:
        code = int(err.code or 0)
    except BaseException:
        code = 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call_and_stop(number: signal.Signals, pattern: Path, *args: object) -> tuple[int, str, str]:
    """As ``call``, with a signal once a path fits the pattern; returns exit code, standard output and error."""
    process = subprocess.Popen([sys.executable, *map(str, args)], cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS="1"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not glob.glob(str(pattern)) and time.time() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors
