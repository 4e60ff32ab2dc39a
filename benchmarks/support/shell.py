"""Commands of the project, started by a benchmark."""

import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import click


class Shell:
    """Runs commands of the project; all of them can be asked to save and end.

    Ctrl-C does not reach the commands by itself, but through ``stop``.

    Args:
        threads: Of each command.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def call(self, args: Sequence[str], log: Path, on_line: Callable[[str], None] = lambda line: None) -> str:
        """Run one command to its end.

        Args:
            args: Script and arguments.
            log: Gets its standard error.
            on_line: Called with each line of its standard output.

        Returns:
            The last line of its standard output.

        Raises:
            click.ClickException: It failed; the text has the last line of the log.
        """
        last = ""
        with log.open("a") as errors:
            with self._lock:
                if self._stopped:
                    raise click.ClickException("stopped")
                process = subprocess.Popen(
                    [sys.executable, *args], env=dict(os.environ, OMP_NUM_THREADS=str(self.threads)),
                    stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
                self._running.add(process)
            with process:
                for line in process.stdout or ():
                    last = line.strip() or last
                    on_line(last)
        with self._lock:
            self._running.remove(process)
        if process.returncode != 0:
            reason = log.read_text().strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise click.ClickException(f"{shlex.join(['python', *args])} failed: {reason[0]}")
        return last

    def stop(self) -> None:
        """Ask all commands to end, and let no other begin; trainings save first."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def dry_run(train_args: Sequence[str]) -> None:
    """Have a training's options checked.

    Raises:
        click.ClickException: They are refused; the text says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        Shell().call([*train_args, "--dry-run"], Path(folder) / "train.log")
