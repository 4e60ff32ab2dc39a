"""The project's commands as a user calls them: in this process, or in one of their own."""

import glob
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def call_and_stop(number: signal.Signals, pattern: Path, *args: object) -> tuple[int, str, str]:
    """As ``call``, with a signal once a path fits the pattern; returns exit code, standard output and error."""
    process = subprocess.Popen([sys.executable, *map(str, args)], cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS="1"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not glob.glob(str(pattern)) and time.time() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors
