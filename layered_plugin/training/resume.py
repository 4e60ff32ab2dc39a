"""A run of train_layered.py that goes on where it stopped: its own options, and the few that may change."""

import os
import sys
from pathlib import Path
from typing import Any

from layered_plugin import device, runs, trust
from layered_plugin.base import BASE
from layered_plugin.data.fingerprint import compare
from layered_plugin.errors import ArgumentError, CheckpointError
from layered_plugin.training.metrics import choose_metrics
from layered_plugin.training.stored_config import read_config

# Options that may change when a run is resumed, beside where its data lie; the others are the run's own, and may be
# given as they were: so the same command, with --resume, goes on.
RESUME_OPTIONS = {"outdir", "resume", "dry_run", "kimg", "snap", "tick", "workers", "metrics", "fid_weights",
                  "on_collapse", "snap_minutes", "gpus", "batch_gpu", "trust_pickle", "data_changed"}


def resume_config(resume: str, outdir: str, opts: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """Parameters of ``training_loop`` for a run that goes on, ``latest`` or a folder, by the options that are given.

    Raises:
        ArgumentError: An option is given that can't change.
        CheckpointError: There is no such run, or its files can't be used here.
    """
    run_dir = runs.find_run(outdir, resume)
    for path in sorted(run_dir.parent.glob("[0-9]*-*")) if resume == "latest" else ():
        if path.name > run_dir.name and (path / runs.GAN_FILE).is_file() and not runs.training_states(path):
            print(f"WARNING: {path} is newer than {run_dir}, but has saved nothing to go on from", file=sys.stderr)
    config = read_config(run_dir)
    known = {name for name in ("data", "masks") if config[f"{name}_fingerprint"] is not None}
    if "find_masks" in given and opts["find_masks"] == 0 and not (run_dir / runs.FOUND).is_dir():
        config.pop("found", None)  # None were found, and it goes on without.
        known.add("find_masks")
    asked = config["asked"]
    fixed = [name for name in sorted(given - RESUME_OPTIONS - known) if name not in asked or asked[name] != opts[name]]
    if fixed:
        raise ArgumentError(f"`{fixed[0]}` cannot change when {run_dir} is resumed; leave it out, or start a new run")
    _check_base(run_dir, config)
    gpus = opts["gpus"] if "gpus" in given or "WORLD_SIZE" in os.environ else config["num_gpus"]
    _share_out(run_dir, config, gpus, opts["batch_gpu"] if "batch_gpu" in given else None)
    try:
        device.check_count(config["device"], config["num_gpus"])
    except ArgumentError as err:
        raise CheckpointError(f"{run_dir} was trained with `device`={config['device']}: {err}; "
                              "go on where they are, or start a new run") from err
    if "data" in given:
        config["training_set_kwargs"]["path"] = opts["data"]
    if "masks" in given:
        config["masks_path"] = opts["masks"]
    _check_data(config, opts["data_changed"] == "ok", run_dir / runs.GAN_FILE)
    config.update(run_dir=str(run_dir), resume_state=str(runs.training_states(run_dir)[-1]))
    names = dict(kimg="total_kimg", tick="kimg_per_tick", on_collapse="on_collapse", snap_minutes="snapshot_minutes",
                 fid_weights="fid_weights")
    config.update({names[key]: opts[key] for key in given & names.keys()})
    if "snap" in given:
        config.update(image_snapshot_ticks=opts["snap"], network_snapshot_ticks=opts["snap"])
    if "workers" in given:
        config["data_loader_kwargs"].update(num_workers=opts["workers"],
                                            prefetch_factor=2 if opts["workers"] > 0 else None)
    kept = ",".join(config["metrics"]) or "none"
    config["metrics"] = choose_metrics(opts["metrics"] if "metrics" in given else kept, config["fid_weights"])
    for path in (config["resume_pkl"], config["init_pkl"]):
        if path is not None and config["on_collapse"] == "restart":  # Else it is not read again.
            trust.check_pickle(path, config["network_sha256"], opts["trust_pickle"], run_dir / runs.GAN_FILE)
    return config


def _check_base(run_dir: Path, config: dict[str, Any]) -> None:
    base = config.pop("base")
    if base == str(BASE):
        return
    blocks = (config["G_kwargs"].get("synthesis_kwargs", {}), config["D_kwargs"].get("block_kwargs", {}))
    if BASE.name == "official" and any("half_dtype" in block for block in blocks):
        raise CheckpointError(f"{run_dir} was trained with `precision`=bf16 on the bundled base, and the official base "
                              "has none: unset STYLEGAN2_ADA_PYTORCH to go on, or start a new run")
    print(f"WARNING: {run_dir} was made on the base {base}; going on with {BASE}", file=sys.stderr)


def _check_data(config: dict[str, Any], may_change: bool, path: Path) -> None:
    """See that the pictures are those that the run began with, and the masks."""
    kwargs = config["training_set_kwargs"]
    before = config["data_fingerprint"]
    now, changed = compare(kwargs["path"], before, may_change, f"{path}: training_set_kwargs.path",
                           labels=kwargs.get("use_labels", False))
    if config["masks_path"] is not None:
        config["masks_fingerprint"], _changed = compare(config["masks_path"], config["masks_fingerprint"], may_change,
                                                        f"{path}: masks_path", option="masks")
    if changed and kwargs.get("max_size") == before["num"]:  # All of them, not a subset.
        kwargs["max_size"] = now["num"]
    config["data_fingerprint"] = now


def _share_out(run_dir: Path, config: dict[str, Any], gpus: int, batch_gpu: int | None) -> None:
    """Let another number of processes go on with a run, or other rounds; ArgumentError if its batches don't allow it.

    Args:
        batch_gpu: Most pictures of a process and round; None = as before, or fewer where a process has fewer.
    """
    if gpus == config["num_gpus"] and batch_gpu is None:
        return
    group = config["D_kwargs"].get("epilogue_kwargs", {}).get("mbstd_group_size") or 1
    for part in (config, *config.get("stages", [])):
        if part["batch_size"] % gpus != 0:
            raise ArgumentError(f"`gpus` must divide the run's batch of {part['batch_size']}, got {gpus}")
        share = part["batch_size"] // gpus
        most = min(batch_gpu or part["batch_gpu"], share)
        least = most if batch_gpu else 1
        fitting = [num for num in range(least, most + 1) if share % num == 0 and num % group == 0]
        if not fitting and batch_gpu:
            raise ArgumentError(f"`batch_gpu` must divide the run's batch per process, {share}, and be a multiple of "
                                f"its minibatch-std group {group}, got {batch_gpu}")
        if not fitting:
            raise ArgumentError(f"`gpus`={gpus} leaves {share} pictures for each process, which is no multiple of the "
                                f"run's minibatch-std group {group}; use fewer")
        part["batch_gpu"] = fitting[-1]
    if gpus != config["num_gpus"]:
        print(f"WARNING: {run_dir} was trained by {config['num_gpus']} processes, {gpus} go on: with the same pictures "
              "in the same order, but other random numbers", file=sys.stderr)
        config["num_gpus"] = gpus
