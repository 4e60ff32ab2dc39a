"""How the commands are called: by their files in a checkout, by names of their own where the package is installed."""

import os
import shlex
import sys
from pathlib import Path

CALLS = {
    "python train_layered.py": "layered-train",
    "python invert.py": "layered-invert",
    "python eval.py": "layered-eval",
    "python -m layered_plugin.dataset_tool": "layered-data",
    "python -m layered_plugin.generate": "layered-generate",
    "python -m layered_plugin.export": "layered-export",
    "python -m layered_plugin.projector": "layered-projector",
    "python -m layered_plugin.style_mixing": "layered-style-mixing",
    "python -m layered_plugin.app": "layered-app",
}

ROOT = Path(__file__).resolve().parent.parent  # Of the checkout, if it is one.


def as_typed(text: str) -> str:
    """A text whose calls, written as in a checkout, are those that work here."""
    program = Path(sys.argv[0]).stem
    if program in CALLS.values() or not (ROOT / "train_layered.py").is_file():
        for call, name in CALLS.items():
            text = text.replace(call, name)
    return text


def is_command() -> bool:
    """Whether this process is one of the commands, not somebody's program that uses the package."""
    program = Path(sys.argv[0])
    called = {program.stem, f"python {program.name}", " ".join(["python", *sys.orig_argv[1:3]])}
    return not called.isdisjoint([*CALLS, *CALLS.values()])


def typed_command(program: str) -> str:
    """The command line of this process, as a user types it; the program is a file, or `-m MODULE`."""
    return as_typed(shlex.join(["python", *program.split(), *sys.argv[1:]]))


def go_on_command(command: str, run_dir: str | os.PathLike[str]) -> str:
    """The command line that goes on with a run, as a user types it; `command` as for typed_command."""
    words = [*command.split(), f"--outdir={Path(run_dir).parent}", f"--resume={run_dir}"]
    return as_typed(shlex.join(["python", *words]))
