"""Trained networks from upstream's pickles, for use without training them further.

Unpickling runs code of the file: load only what you trust (`trust.py`). `weights_file.py` keeps the same networks
without code.
"""

import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import dnnlib
import legacy
import torch

from layered_plugin import trust
from layered_plugin.errors import CheckpointError, ModelError, one_line, raising
from layered_plugin.files import write_watched
from layered_plugin.json_files import anything, check_fields, number, parse_json
from layered_plugin.model.weights_file import load_generator
from layered_plugin.runs import STATS_FILE, complete_run, nearest_runs
from layered_plugin.tensor_files import tensor_bytes

SNAPSHOT_PATTERN = re.compile(r"network-snapshot-([0-9]{6,})\.pkl")


def snapshot_path(run_dir: str | os.PathLike[str], nimg: int) -> Path:
    """Where a run keeps its networks as they were after so many pictures."""
    return Path(run_dir) / f"network-snapshot-{nimg // 1000:06d}.pkl"


def save_network_pkl(path: str | os.PathLike, data: dict[str, Any]) -> None:
    """Write a snapshot in upstream's format: a pickled dict of training_set_kwargs, G, D, G_ema, augment_pipe."""
    write_watched(path, lambda file: pickle.dump(data, file), tensor_bytes(data))
    trust.trust(trust.pickle_hash(path))


def find_snapshot(path: str | os.PathLike[str], choice: str = "latest") -> str:
    """The pickle, URL or folder of a saved generator itself, or a network snapshot of a run folder.

    Args:
        path: Pickle, URL or run folder.
        choice: Of a run folder: ``latest``; ``best``, whose scenes were nearest to the real pictures
            (``Variety/frechet`` of stats.jsonl; of a growing run at the largest resolution measured; the latest if none
            was measured), said on stderr; or its kimg.

    Raises:
        CheckpointError: There is none.
    """
    if "://" in str(path):
        return str(path)
    path = complete_run(path)
    if path.is_file() or trust.is_saved_generator(path):
        return str(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or run folder{nearest_runs(path)}")
    kimg_of = {file: int(match[1]) for file in path.glob("network-snapshot-*.pkl")
               if (match := SNAPSHOT_PATTERN.fullmatch(file.name))}
    if not kimg_of:
        raise CheckpointError(f"{path}: holds no network-snapshot-KIMG.pkl; is it the run folder of train_layered.py?")
    if choice not in ("latest", "best"):
        chosen = [file for file, kimg in kimg_of.items() if str(kimg) == choice]
        if not chosen:
            raise CheckpointError(f"{path}: has no snapshot of kimg {choice}; those it has: "
                                  f"{', '.join(map(str, sorted(kimg_of.values())))}")
        return str(chosen[0])
    distances = _snapshot_distances(path, set(kimg_of.values())) if choice == "best" else {}
    measured = [file for file, kimg in kimg_of.items() if kimg in distances]
    if not measured:
        return str(max(kimg_of, key=kimg_of.__getitem__))
    nearest = min(measured, key=lambda file: distances[kimg_of[file]])
    what = f"of {len(measured)} snapshots the nearest to" if len(measured) > 1 else "the only snapshot compared with"
    print(f"{nearest}: {what} the real pictures (Frechet distance {distances[kimg_of[nearest]]:.2f})", file=sys.stderr)
    return str(nearest)


def _snapshot_distances(run_dir: Path, kimgs: set[int]) -> dict[int, float]:
    """Frechet distances by kimg, out of kimgs; damaged lines count as not measured, which is said on stderr.

    Those of the largest resolution alone: each stage of a growing run learns features of its own.
    """
    path, distances, damaged = run_dir / STATS_FILE, {}, []
    for idx, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], start=1):
        where = f"{path}: line {idx}"
        try:
            measured = check_fields(parse_json(line, where), _kimg_distance_and_side, where)
        except CheckpointError as err:
            damaged.append(str(err))
            continue
        if measured is not None and int(measured[0]) in kimgs:
            distances[int(measured[0])] = measured[1:]
    if damaged:
        print(f"NOTE: {one_line(damaged[0], 300)}; damaged lines, {len(damaged)} in all, count as not measured",
              file=sys.stderr)
    largest = max((side for _distance, side in distances.values()), default=0)
    return {kimg: distance for kimg, (distance, side) in distances.items() if side == largest}


def _kimg_distance_and_side(row: Any, key: str) -> list[float] | None:
    """Rule for a line of statistics: what it measured, None without a distance; 0 = a resolution that is not there."""
    if "Variety/frechet" not in anything(row, key):
        return None
    return [number(0)(anything(row.get(name, default), name).get("mean"), f"{name}.mean")
            for name, default in (("Progress/kimg", None), ("Variety/frechet", None),
                                  ("Progress/resolution", dict(mean=0)))]


def load_snapshot(path: str | os.PathLike[str], device: torch.device | str = "cpu",
                  choice: str = "latest") -> dict[str, Any]:
    """Load the networks of a layered snapshot, frozen.

    Args:
        path: Pickle, run folder or URL; or folder of ``save_generator``, from which no code runs.
        device: Where to put them.
        choice: Snapshot of a run folder, see ``find_snapshot``.

    Returns:
        As upstream's loader: `G_ema`, `D`, ... in evaluation mode and without gradients, `training_set_kwargs`; and
        `path`, the pickle that was read.

    Raises:
        CheckpointError: It can't be read, or its generator is not layered; the text names the file.
    """
    file_or_url = find_snapshot(path, choice)
    if not trust.is_saved_generator(file_or_url):
        trust.trust_named(file_or_url)
    data = read_networks(file_or_url)
    if not is_layered(data["G_ema"]):
        raise CheckpointError(f"{file_or_url}: its generator draws no layers; train one with train_layered.py")
    for name in ("G", "D", "G_ema"):
        data[name] = data[name].eval().requires_grad_(False).to(device)
    return dict(data, path=file_or_url)


def read_networks(path: str) -> dict[str, Any]:
    """Networks as upstream's loader gives them, layered or not; CheckpointError names what can't be read.

    Code of a pickle or URL runs; of a folder of ``save_generator`` there is none.
    """
    if trust.is_saved_generator(path):
        try:
            return load_generator(path)
        except ModelError as err:
            raise CheckpointError(str(err)) from err
    # A pickle is a program, a damaged one may fail in any way.
    with (raising(CheckpointError, f"{path}: not a readable network snapshot", Exception, width=200),
          dnnlib.util.open_url(path) as file):
        return legacy.load_network_pkl(file)


def is_layered(G: torch.nn.Module) -> bool:
    """Whether a generator is a LayeredGenerator, of this or another installation of the plugin."""
    return type(G).__name__ == "LayeredGenerator" and hasattr(G, "synthesis") and hasattr(G.synthesis, "single")
