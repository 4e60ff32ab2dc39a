"""Run folders: names of their files, how they are found, started and written.

A training state is a plain dict that ``torch.load(weights_only=True)`` reads; pickles are for upstream's tools. PyTorch
is imported where it is needed: it takes long, and who looks for folders does without.
"""

import difflib
import itertools
import os
import re
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

from layered_plugin.base import BASE
from layered_plugin.calls import go_on_command, typed_command
from layered_plugin.errors import CheckpointError, ModelError, UserError, raising
from layered_plugin.files import lock, unlock, write_json
from layered_plugin.json_files import read_json

GAN_FILE = "training_options.json"  # What a training of train_layered.py was asked for.
OPTIONS = "options.json"  # What a run of invert.py was asked for.
MODEL_FILE = "model.json"  # A finished run of invert.py.
MODEL_FILES = (MODEL_FILE, OPTIONS)  # Of a finished run of invert.py, and of one still on its way.
SEGMENTER, FOUND = "segmenter", "found"  # Of a training that finds masks: who finds them, and a folder of the masks.
STATS_FILE, LOG_FILE = "stats.jsonl", "log.txt"
GENERATED_FILE, REAL_FILE = "metric-generated.jsonl", "metric-real.jsonl"  # Scores of eval.py.

# Of a folder of invert.py segment; the last, within it, of the pictures whose masks are doubtful.
MANIFEST, CONTACT_SHEET, DOUBTFUL = "manifest.jsonl", "contact-sheet.png", "doubtful"

STATE_PATTERN = re.compile(r"training-state-(\d{6,})\.pt")
END_SECONDS = 10.0  # PyTorch's loading processes look that often whether they are alone.
KEEP_STATES = 2  # Older training states are removed: each holds both networks, the EMA and Adam's moments.


def save_training_state(run_dir: str | os.PathLike, kimg: int, state: dict[str, Any]) -> Path:
    """Write ``training-state-KIMG.pt``, remove all but the newest ``KEEP_STATES``, and return its path."""
    from layered_plugin.tensor_files import save_state

    path = Path(run_dir) / f"training-state-{kimg:06d}.pt"
    save_state(path, state)
    for old in training_states(run_dir)[:-KEEP_STATES]:
        old.unlink()
    return path


def load_training_state(path: str | os.PathLike) -> dict[str, Any]:
    """Read a training state; executes no code. CheckpointError if it is damaged or none."""
    import torch

    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: missing, damaged, or no training state")
    # Of a damaged one PyTorch and zipfile say so in many ways.
    with raising(CheckpointError, f"{path}: not a readable training state", Exception, width=200):
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: damaged: holds no training state")
    return state


def training_states(run_dir: str | os.PathLike) -> list[Path]:
    """Training states of a run, oldest first."""
    states = [p for p in Path(run_dir).glob("training-state-*.pt") if STATE_PATTERN.fullmatch(p.name)]
    return sorted(states, key=lambda p: int(STATE_PATTERN.fullmatch(p.name)[1]))  # type: ignore[index]


def last_kimg(run_dir: str | os.PathLike[str]) -> int:
    """Kimg of a run's newest training state, -1 if it has none."""
    return max((int(path.stem.rpartition("-")[2]) for path in training_states(run_dir)), default=-1)


def complete_run(path: str | os.PathLike[str], kind: type[UserError] = CheckpointError) -> Path:
    """A path as it is, or, where nothing has that name, the one folder whose name begins with it.

    Names of run folders are long: `runs/00001` or `runs/00001-distill` will do. UserError of this kind if several fit.
    """
    path = Path(path)
    if path.exists() or not path.parent.is_dir():
        return path
    matches = sorted(p for p in path.parent.glob("[0-9]*-*") if p.is_dir() and p.name.startswith(path.name))
    if len(matches) > 1:
        raise kind(f"{path}: fits {len(matches)} run folders, such as {matches[0]}; write more of the name")
    return matches[0] if matches else path


def nearest_runs(path: str | os.PathLike[str], *folders: str | os.PathLike[str]) -> str:
    """End of an error of a run or pickle that is not there: the nearest names beside it, or in these folders."""
    path = Path(path)
    entries = [entry for folder in (path.parent, *map(Path, folders)) if folder.is_dir() for entry in folder.iterdir()
               if entry.suffix == ".pkl" or (entry.is_dir() and re.match(r"\d+-", entry.name))]
    names = {entry.name: entry for entry in reversed(entries)}
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.3)
    return f"; the nearest names are {', '.join(str(names[name]) for name in close)}" if close else ""


def find_run(outdir: str | os.PathLike, resume: str) -> Path:
    """Resolve ``--resume=latest|RUN`` to a run folder that holds a training state; latest = the newest under outdir.

    CheckpointError if there is no such run, or it has no training state.
    """
    if resume != "latest":
        if not training_states(resume):
            raise CheckpointError(f"{resume}: no training-state-*.pt there to resume from")
        return Path(resume)
    runs = [p for p in Path(outdir).glob("[0-9]*-*") if training_states(p)]
    if not runs:
        raise CheckpointError(f"{outdir}: no run folder with a training-state-*.pt to resume from")
    return max(runs, key=lambda p: training_states(p)[-1].stat().st_mtime)


def make_run_dir(outdir: str, desc: str) -> str:
    """Create ``<outdir>/<number>-<desc>``, the number one above the largest there."""
    parent = Path(outdir)
    parent.mkdir(parents=True, exist_ok=True)
    numbers = [int(match[0]) for path in parent.iterdir() if path.is_dir() and (match := re.match(r"\d+", path.name))]
    for number in itertools.count(max(numbers, default=-1) + 1):
        run_dir = parent / f"{number:05d}-{desc}"
        with suppress(FileExistsError):  # Of another command that was started at the same moment.
            run_dir.mkdir()
            break
    return str(run_dir)


@contextmanager
def held(run_dir: str | os.PathLike[str]) -> Iterator[None]:
    """Keep a run folder to this command as long as the block lasts, on systems and disks that have locks.

    UserError if another command trains there, as a job does that was requeued too soon; one that was killed has
    ``END_SECONDS`` for its processes to end.
    """
    if os.name != "posix":
        yield
        return
    number, end = os.open(run_dir, os.O_RDONLY), time.monotonic() + END_SECONDS
    try:
        while not lock(number):
            if time.monotonic() > end:
                raise UserError(f"{run_dir}: another command is training there; wait for its end, or stop it")
            time.sleep(0.1)
        yield
    finally:
        unlock(number)
        os.close(number)


def short_name(name: str) -> str:
    """The beginning of a data set's name, so that with all else in it a run folder's name is no longer than allowed."""
    return name.encode(errors="replace")[:100].decode(errors="ignore")


def next_desc(run_dir: str, seed: int) -> str:
    """Description of a run that starts anew with another seed: that of its folder, with the seed in it replaced."""
    desc = re.sub(r"^\d+-", "", Path(run_dir).name)
    changed, replaced = re.subn(r"-seed\d+(?=(-initfrom)?(-resume\w+|-noresume)?$)", f"-seed{seed}", desc)
    return changed if replaced else f"{desc}-seed{seed}"


def find_model(path: str | os.PathLike[str]) -> Path:
    """The folder of a model, from the folder or one of its files; ModelError if there is no model, or not yet."""
    path = complete_run(path, ModelError)
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise ModelError(f"{path}: no such file or run folder{nearest_runs(path)}")
    if (folder / OPTIONS).is_file() and not (folder / MODEL_FILE).is_file():
        kind = "train" if read_json(folder / OPTIONS, ModelError).get("invert") == "train" else "distill"
        raise ModelError(f"{path}: not finished; go on with: {go_on_command(f'invert.py {kind}', folder)}")
    if not (folder / MODEL_FILE).is_file():
        raise ModelError(f"{path}: holds no model.json; give the run folder of invert.py train or distill")
    return folder


def start_run(outdir: str, desc: str, record: Mapping[str, Any]) -> Path:
    """Make ``<outdir>/<number>-<desc>`` and keep there what the run was asked for, as options.json."""
    run_dir = Path(make_run_dir(outdir, desc))
    write_json(run_dir / OPTIONS, record)
    return run_dir


def find_model_run(outdir: str, resume: str, command: str) -> tuple[Path, dict[str, Any]]:
    """Resolve ``--resume=latest|RUN`` to a run folder of one command, and read what it was asked for.

    Args:
        outdir: Parent of the run folders.
        resume: "latest" = the newest such run under outdir, damaged ones left out with a line on stderr; else a run
            folder, or the beginning of its name.
        command: Name of the command, "train" or "distill".

    Raises:
        CheckpointError: There is none, or its options can't be read.
    """
    candidates = sorted(Path(outdir).glob("[0-9]*-*")) if resume == "latest" else [complete_run(resume)]
    matching = []
    for run_dir in (path for path in candidates if (path / OPTIONS).is_file()):
        try:
            record = read_json(run_dir / OPTIONS)
            if not isinstance(record.get("options"), dict):
                raise CheckpointError(f"{run_dir / OPTIONS}: damaged; start a new run")
        except CheckpointError as err:
            if resume != "latest":
                raise
            print(f"WARNING: left out {err}", file=sys.stderr)
        else:
            if record.get("invert") == command:
                matching.append((run_dir, record))
    if not matching:
        place = outdir if resume == "latest" else resume
        near = "" if resume == "latest" or Path(resume).exists() else nearest_runs(resume, outdir)
        raise CheckpointError(f"{place}: no run of invert.py {command} there{near}")
    return matching[-1]


def forget_states(run_dir: Path) -> None:
    """Remove the training states of a finished run; the model is what stays."""
    for path in run_dir.glob("training-state-*.pt"):
        path.unlink()


def provenance(program: str) -> dict[str, str]:
    """Command line, date, base and torch version of this process, for a record; ``program`` as for typed_command."""
    import torch

    return dict(command=typed_command(program), date=date.today().isoformat(), base=BASE.name, torch=torch.__version__)


def run_folder(path: str | os.PathLike[str]) -> Path | None:
    """The folder of the run that a network or model is of: itself, or the one it lies in; None if that is no run."""
    if "://" in str(path):
        return None
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return folder if any((folder / name).is_file() for name in (GAN_FILE, MODEL_FILE)) else None


def begun_runs(outdir: str | os.PathLike[str], kind: str = "") -> list[Path]:
    """Runs under a folder that a training can go on with, or that are finished, in the order of their numbers.

    Args:
        outdir: Parent of the run folders.
        kind: What their names have after the number, such as "distill"; empty = all.
    """
    return sorted(path for path in Path(outdir).glob(f"[0-9]*-{kind}*")
                  if training_states(path) or (path / OPTIONS).is_file())


def or_go_on(command: Sequence[str], kind: str = "") -> list[str]:
    """The command of a new training, or, where its --outdir holds one that has begun, that which goes on with it.

    Args:
        command: Script, subcommand if it has one, then options, with ``--outdir=DIR`` among them.
        kind: As for ``begun_runs``; the last of them goes on, which says so if it is finished.
    """
    outdir = next(word for word in command if word.startswith("--outdir="))
    begun = begun_runs(outdir.partition("=")[2], kind)
    words = itertools.takewhile(lambda word: not word.startswith("--"), command)
    return [*words, outdir, f"--resume={begun[-1]}"] if begun else list(command)
