"""Files of a run: names, atomic writing, finding the newest, loading without executing code.

A training state is a plain dict that ``torch.load(weights_only=True)`` reads; pickles are for upstream's tools.
"""

import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

STATE_PATTERN = re.compile(r"training-state-(\d{6,})\.pt")
KEEP_STATES = 2  # Older training states are removed: each holds both networks, the EMA and Adam's moments.


class CheckpointError(Exception):
    """A run folder or checkpoint cannot be used; the text names it."""


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a file for writing bytes that appears under its name only when it is whole.

    Written beside its destination, flushed to the disk, then moved into place. On any failure the temporary file is
    removed and what was there before stays.
    """
    path = Path(path)
    handle, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temp, 0o644)
        os.replace(temp, path)
    except BaseException:
        Path(temp).unlink(missing_ok=True)
        raise


def save_network_pkl(path: str | os.PathLike, data: dict[str, Any]) -> None:
    """Write a snapshot in upstream's format: a pickled dict of training_set_kwargs, G, D, G_ema, augment_pipe."""
    with atomic_write(path) as file:
        pickle.dump(data, file)


def save_training_state(run_dir: str | os.PathLike, kimg: int, state: dict[str, Any]) -> Path:
    """Write ``training-state-KIMG.pt`` and remove all but the newest ``KEEP_STATES``.

    Returns:
        The path written.
    """
    path = Path(run_dir) / f"training-state-{kimg:06d}.pt"
    with atomic_write(path) as file:
        torch.save(state, file)
    for old in training_states(run_dir)[:-KEEP_STATES]:
        old.unlink()
    return path


def load_training_state(path: str | os.PathLike, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a training state; executes no code.

    Raises:
        CheckpointError: The file is damaged or is no training state.
    """
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: missing, damaged, or no training state")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as err:
        raise CheckpointError(f"{path}: not a readable training state: {err}") from err


def training_states(run_dir: str | os.PathLike) -> list[Path]:
    """Training states of a run, oldest first."""
    found = [p for p in Path(run_dir).glob("training-state-*.pt") if STATE_PATTERN.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(STATE_PATTERN.fullmatch(p.name)[1]))  # type: ignore[index]


def complete_run(path: str | os.PathLike[str]) -> Path:
    """A path as it is, or, where nothing has that name, the one folder whose name begins with it.

    Names of run folders are long: `runs/00001` or `runs/00001-distill` will do.

    Raises:
        CheckpointError: Several names begin with it.
    """
    path = Path(path)
    if path.exists() or not path.parent.is_dir():
        return path
    found = sorted(p for p in path.parent.iterdir() if p.is_dir() and p.name.startswith(path.name))
    if len(found) > 1:
        raise CheckpointError(f"{path}: fits {len(found)} run folders, such as {found[0]}; write more of the name")
    return found[0] if found else path


def find_run(outdir: str | os.PathLike, resume: str) -> Path:
    """Resolve ``--resume=latest|RUN`` to a run folder that holds a training state.

    Args:
        outdir: Parent of the run folders.
        resume: "latest" = the run under outdir with the newest training state; else a run folder.

    Raises:
        CheckpointError: There is no such run, or it has no training state.
    """
    if resume != "latest":
        if not training_states(resume):
            raise CheckpointError(f"{resume}: no training-state-*.pt there to resume from")
        return Path(resume)
    runs = [p for p in Path(outdir).glob("[0-9]*-*") if p.is_dir() and training_states(p)]
    if not runs:
        raise CheckpointError(f"{outdir}: no run folder with a training-state-*.pt to resume from")
    return max(runs, key=lambda p: training_states(p)[-1].stat().st_mtime)
