"""A run of train_layered.py that goes on where it stopped: its own options, and the few that may change."""

import sys
from pathlib import Path
from typing import Any

from layered_plugin import device, runs, trust
from layered_plugin.base import BASE
from layered_plugin.errors import ArgumentError, CheckpointError
from layered_plugin.training.config import choose_metrics
from layered_plugin.training.stored_config import read_config

# Options that may change when a run is resumed; the others are the run's own.
RESUME_OPTIONS = {"outdir", "resume", "dry_run", "kimg", "snap", "tick", "workers", "metrics", "on_collapse",
                  "trust_pickle"}


def resume_config(resume: str, outdir: str, opts: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """Parameters of ``training_loop`` for a run that goes on.

    Args:
        resume: "latest" or the run folder.
        outdir: Parent of the run folders.
        opts: Values of the options of ``train_layered.py``.
        given: Those that stand on the command line.

    Raises:
        ArgumentError: An option is given that can't change.
        CheckpointError: There is no such run, or its files can't be used here.
    """
    run_dir = runs.find_run(outdir, resume)
    fixed = sorted(given - RESUME_OPTIONS)
    if fixed:
        raise ArgumentError(f"`{fixed[0]}` cannot change when {run_dir} is resumed; leave it out, or start a new run")
    config = read_config(run_dir)
    try:
        device.check_count(config["device"], config["num_gpus"])
    except ArgumentError as err:
        raise CheckpointError(f"{run_dir} was trained with `device`={config['device']}: {err}; "
                              "go on where they are, or start a new run") from err
    _check_base(run_dir, config.pop("base"))
    config.update(run_dir=str(run_dir), resume_state=str(runs.training_states(run_dir)[-1]))
    names = dict(kimg="total_kimg", tick="kimg_per_tick", on_collapse="on_collapse")
    config.update({names[key]: opts[key] for key in given & names.keys()})
    if "snap" in given:
        config.update(image_snapshot_ticks=opts["snap"], network_snapshot_ticks=opts["snap"])
    if "workers" in given:
        config["data_loader_kwargs"].update(num_workers=opts["workers"],
                                            prefetch_factor=2 if opts["workers"] > 0 else None)
    kept = ",".join(config["metrics"]) or "none"
    config["metrics"] = choose_metrics(opts["metrics"] if "metrics" in given else kept)
    if config["resume_pkl"] is not None and config["on_collapse"] == "restart":  # Else it is not read again.
        trust.check_pickle(config["resume_pkl"], None, opts["trust_pickle"], run_dir / runs.GAN_FILE)
    return config


def _check_base(run_dir: Path, base: str) -> None:
    if base != str(BASE):
        print(f"WARNING: {run_dir} was made on the base {base}; going on with {BASE}", file=sys.stderr)
