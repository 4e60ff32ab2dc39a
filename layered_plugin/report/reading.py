"""Read what trainings and scorings leave in their folders, for the report; every error names the file and the remedy.

What is missing reads as empty; only what is damaged is an error.
"""

import base64
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image

from layered_plugin import json_files
from layered_plugin.data.files import UNREADABLE
from layered_plugin.errors import UserError, raising
from layered_plugin.json_files import Rule, anything, check_fields, choice, fields, maybe, number, text
from layered_plugin.model.network_rules import SHARE, SIDE, WEIGHT
from layered_plugin.runs import GAN_FILE, LOG_FILE, MODEL_FILE, MODEL_FILES, STATS_FILE

KINDS = {"encoder": "encoder", "chunks": "one encoder per chunk", "distill": "distilled U-Net"}

# What the page reads of a file; whatever else it holds is shown as it is.
GAN_OPTIONS = fields(
    dict(training_set_kwargs=fields({}, dict(path=text), others=True),
         loss_kwargs=fields({}, dict(mask_min=SHARE), others=True), resolution=SIDE, total_kimg=WEIGHT),
    dict(base=text, command=text), others=True)

MODEL = fields(
    dict(options=fields({}, dict(network=maybe(text), data=maybe(text), mode=maybe(text)), others=True)),
    dict(kind=choice(*KINDS), command=text), others=True)

TICK = fields(dict(dict.fromkeys(
    ("Progress/kimg", "Timing/maintenance_sec", "Timing/sec_per_tick", "Layers/coverage"),
    fields(dict(mean=WEIGHT), others=True)), timestamp=number(0, 10**11)), others=True)

STEP = fields(dict(step=number(0, whole=True), seconds=WEIGHT), dict(stage=text), others=True)

# Options that may differ between runs of a kind.
OF_ONE_RUN = ("seed", "random_seed", "run_dir", "command", "network", "init", "device", "jobs", "base")

read_json = partial(json_files.read_json, kind=UserError)


class Picture(NamedTuple):
    """A picture inside the report."""

    src: str  # Data URI.
    width: int
    height: int
    caption: str
    alt: str


class GanRun(NamedTuple):
    """A run of train_layered.py."""

    folder: Path
    options: dict[str, Any]
    stats: list[dict[str, float]]  # Mean of each quantity, one entry a tick; kimg rises.
    seconds: float  # Over all stages and starts.
    commands: list[str]
    warnings: list[str]


class ModelRecord(NamedTuple):
    """A run of invert.py train or distill."""

    folder: Path
    about: dict[str, Any]
    finished: bool
    stats: dict[str, list[dict[str, Any]]]  # Per stage, or per chunk; steps rise.

    @property
    def kind(self) -> str:
        """encoder, chunks or distill."""
        if "kind" in self.about:
            return self.about["kind"]
        mode = self.about["options"].get("mode")
        return {"chunks": "chunks", "dataset": "encoder"}.get(mode, "distill")


def read_lines(path: Path, parse: Callable[[dict[str, Any]], Any], rule: Rule = anything) -> list[Any]:
    """What `parse` makes of each line of a JSON lines file; nothing if there is no such file.

    UserError if a line is damaged, breaks the rule, or `parse` misses something in it.
    """
    if not path.exists():
        return []
    with raising(UserError, f"{path}: not readable", OSError, UnicodeDecodeError):
        lines = path.read_text().splitlines()
    parsed = []
    for idx, line in enumerate(lines, start=1):
        try:
            parsed.append(parse(check_fields(json.loads(line), rule, f"{path}: line {idx}", UserError)))
        except UserError as err:
            raise UserError(f"{err}; remove that line") from err
        except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as err:
            what = f"lacks {err}" if isinstance(err, KeyError) else f"is damaged ({err})"
            raise UserError(f"{path}: line {idx} {what}; remove that line") from err
    return parsed


def read_picture(path: Path, caption: str, alt: str) -> Picture:
    """Take a picture into the report, as it is; UserError if it is damaged or no picture."""
    with raising(UserError, f"{path}: not a readable picture", *UNREADABLE):
        with PIL.Image.open(path) as picture:
            picture.load()
            width, height, mime = *picture.size, picture.get_format_mimetype()
        content = base64.b64encode(path.read_bytes()).decode()
    return Picture(f"data:{mime};base64,{content}", width, height, caption, alt)


def numbered_pictures(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    """Number and path of the pictures named as layers000012.png is, in order."""
    matches = [(re.fullmatch(rf"{prefix}(\d+)\.png", path.name), path) for path in folder.glob(f"{prefix}*.png")]
    return sorted((int(match[1]), path) for match, path in matches if match)


def read_gan_run(folder: Path) -> GanRun:
    """Options, statistics and log of a run of train_layered.py; UserError if a file is damaged."""
    options = check_fields(read_json(folder / GAN_FILE), GAN_OPTIONS, folder / GAN_FILE, UserError)
    rows = _rising(read_lines(folder / STATS_FILE, _tick, TICK), "Progress/kimg")
    # Not of total_sec, which starts anew with each stage of a growing run and whenever a run is resumed.
    seconds = sum(row["Timing/maintenance_sec"] + row["Timing/sec_per_tick"] for row in rows)
    log = _read_text(folder / LOG_FILE)
    commands = [options["command"]] if "command" in options else re.findall(r"^Command: (.+)$", log, re.M)
    warnings = [line.removeprefix("WARNING: ") for line in log.splitlines() if line.startswith("WARNING: ")]
    return GanRun(folder, options, rows, seconds, commands, list(dict.fromkeys(warnings)))


def read_model_run(folder: Path) -> ModelRecord:
    """Options and statistics of a run of invert.py, finished or not; UserError if there is none, or it is damaged."""
    path = next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"`model`: {folder} holds no model.json; give the run folder of invert.py train or distill")
    about = check_fields(read_json(path), MODEL, path, UserError)
    stats: dict[str, list[dict[str, Any]]] = {}
    for file in [folder / STATS_FILE, *sorted(folder.glob(f"chunk-*/{STATS_FILE}"))]:
        for row in read_lines(file, _step, STEP):
            name = row.pop("stage", "training") if file.parent == folder else file.parent.name
            stats.setdefault(name, []).append(row)
    rising = {name: _rising(rows, "step") for name, rows in stats.items()}
    return ModelRecord(folder, about, path.name == MODEL_FILE, rising)


def find_model_runs(gan: Path) -> list[Path]:
    """Runs of invert.py beside a training run whose network is of that run, in the order of their names."""
    runs = []
    for folder in sorted(path for path in gan.absolute().parent.iterdir() if path.is_dir()):
        path = next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
        options = _of_neighbour(path).get("options") if path is not None else None
        if isinstance(options, dict) and is_of_run(options.get("network"), gan):
            runs.append(gan.parent / folder.name)
    return runs


def _of_neighbour(path: Path) -> dict[str, Any]:
    """An object from a file of a run that nobody asked for by name: empty, with a line on stderr, if it is damaged."""
    try:
        return read_json(path)
    except UserError as err:
        print(f"WARNING: left out {err}", file=sys.stderr)
        return {}


def find_siblings(gan: Path) -> list[Path]:
    """Training runs beside one that were asked for the same but for the seed, in the order of their names."""
    asked, runs = _but_for_seed(read_json(gan / GAN_FILE)), []
    for folder in sorted(path for path in gan.absolute().parent.iterdir() if (path / GAN_FILE).is_file()):
        if folder.name != gan.absolute().name and _but_for_seed(_of_neighbour(folder / GAN_FILE)) == asked:
            runs.append(gan.parent / folder.name)
    return runs


def sibling_key(options: Mapping[str, Any]) -> str:
    """What models share that were trained alike but for the seed: theirs, and that of their network's run.

    UserError if the options of that run are damaged.
    """
    network = Path(str(options.get("network")))
    run = network.parent if network.suffix == ".pkl" else network
    kind: Any = re.sub(r"^\d+-|-seed\d+", "", run.name)  # All that is known of a run that is not there.
    if is_gan_run(run):
        kind = _but_for_seed(read_json(run / GAN_FILE))
    return json.dumps([_but_for_seed(options), kind], sort_keys=True)


def _but_for_seed(options: Any) -> Any:
    if not isinstance(options, Mapping):
        return options
    return {name: _but_for_seed(value) for name, value in options.items() if name not in OF_ONE_RUN}


def is_gan_run(folder: Path) -> bool:
    """Whether a folder that a file names is a training run; no name is too long or too strange to be none."""
    return os.path.isfile(folder / GAN_FILE)


def is_of_run(network: Any, gan: Path) -> bool:
    """Whether a network, a pickle or run folder, is of a training run; a run that was moved is known by its name."""
    if not isinstance(network, str) or "://" in network:
        return False
    path = Path(network)
    for place in (path, path.parent):
        if is_gan_run(place):
            return place.resolve() == gan.resolve()
    return gan.absolute().name in (path.name, path.parent.name)


def _tick(row: dict[str, Any]) -> dict[str, float]:
    return {name: float(value if name == "timestamp" else value["mean"]) for name, value in row.items()}


def _step(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value if name in ("step", "stage") else float(value) for name, value in row.items()}


def _rising(rows: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Leave out what a resumed run did once more."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        while kept and kept[-1][key] >= row[key]:
            kept.pop()
        kept.append(row)
    return kept


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as err:
        raise UserError(f"{path}: not readable: {err}") from err
