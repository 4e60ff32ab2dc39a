"""Masks of a training's pictures, found while it stands still: by a segmenter distilled from its generator."""

import os
import shutil
import sys
from pathlib import Path

from layered_plugin import runs
from layered_plugin.calls import go_on_command
from layered_plugin.cores import usable_cores
from layered_plugin.errors import CheckpointError, DiskFullError, ModelError, PictureError, UserError
from layered_plugin.files import remove_leftovers, write_json
from layered_plugin.model.snapshots import find_snapshot
from layered_plugin.segmentation.segment_files import segment_files
from layered_plugin.segmentation.segmenter import Segmenter
from layered_plugin.segmentation.train_distilled import DEFAULTS, train_distilled
from layered_plugin.signals import StopRequest

# Half of the usual steps, and of the batches of a small set: the generator learns outlines from all masks together.
SHORT = dict(DEFAULTS, steps=300, adapt=600)


def find_masks(run_dir: Path, data: str, num: int, seed: int, device: str, workers: int) -> str | None:
    """Distil a segmenter from a run's best snapshot, and have it find masks of the run's pictures.

    Goes on where it was stopped or killed. Afterwards the run's ``runs.SEGMENTER`` is a model of ``invert.py``, and its
    ``runs.FOUND`` what ``invert.py segment`` writes, which is there once it is complete. PyTorch's random generators
    are left anywhere.

    Args:
        run_dir: Folder of a run of ``train_layered.py``, with snapshots.
        data: Its pictures.
        num: Of how many of them at most; of a larger set only so many are segmented, evenly spread over its names.
        seed: Of the segmenter.
        device: Where it learns: cpu, cuda (the process's own) or mps.
        workers: Most processes that decode and encode.

    Returns:
        None, or the name of the signal that stopped it; what has been begun to be segmented is finished first.

    Raises:
        UserError: Scenes or pictures are such that no segmenter can be trained, or a file can't be written.
    """
    found = run_dir / runs.FOUND
    if found.is_dir():
        return None
    print("Finding masks of the pictures, by a segmenter distilled from the generator...")
    with StopRequest() as stop:
        _distil(run_dir, data, seed, device)
        if stop.received is None:
            _segment(run_dir, data, num, device, min(workers, usable_cores()))
            print(f"Masks found: {found / runs.CONTACT_SHEET}")
    return stop.received


def _distil(run_dir: Path, data: str, seed: int, device: str) -> None:
    """Train the run's segmenter, or go on with it; not to its end if a signal stops it."""
    model_dir = run_dir / runs.SEGMENTER
    if not (model_dir / runs.MODEL_FILE).is_file():
        options = dict(SHORT, network=find_snapshot(run_dir, "best"), data=data, seed=seed, device=device)
        record = dict(invert="distill", **runs.provenance("train_layered.py"))
        model_dir.mkdir(exist_ok=True)
        remove_leftovers(model_dir)
        write_json(model_dir / runs.OPTIONS, dict(record, options=options))
        try:
            train_distilled(model_dir, options, record)
        except (PictureError, DiskFullError, CheckpointError):
            raise
        except UserError as err:
            raise UserError(f"no masks found: {err}; go on without, or start anew with another `seed`: "
                            f"{go_on_command('train_layered.py', run_dir)} --find-masks=0") from err


def _segment(run_dir: Path, data: str, num: int, device: str, workers: int) -> None:
    """Segment the pictures that are not segmented yet; all, where those that are were others, or the run elsewhere."""
    segmenter, partial = Segmenter.load(run_dir / runs.SEGMENTER, device), run_dir / f"{runs.FOUND}.partial"
    try:
        outcome = segment_files(segmenter, data, partial, cutouts=False, workers=workers, num=num)
    except ModelError:
        if not partial.is_dir():
            raise
        shutil.rmtree(partial)
        outcome = segment_files(segmenter, data, partial, cutouts=False, workers=workers, num=num)
    for problem in outcome.failed.values():
        print(f"WARNING: no mask: {problem}", file=sys.stderr)
    os.replace(partial, run_dir / runs.FOUND)
