"""Train a layered generator on unlabelled pictures of one kind of object.

Command line of the plugin; upstream's options, then ours.
"""

import json
import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from layered_plugin import runs, trust
from layered_plugin.base import BASE
from layered_plugin.command_line import SETTINGS, CheckedCommand, check_outside, user_errors
from layered_plugin.data.fingerprint import fingerprint
from layered_plugin.errors import ArgumentError, CheckpointError, FidelityError, MaskError, PictureError
from layered_plugin.segmentation.find_masks import find_masks
from layered_plugin.training import options, presets
from layered_plugin.training.checks import check_together
from layered_plugin.training.config import setup_training_config
from layered_plugin.training.init_from import adopt_plain, plain_options
from layered_plugin.training.launcher import launch
from layered_plugin.training.resume import RESUME_OPTIONS, resume_config


def torchrun_processes() -> int | None:
    """How many processes torchrun has started; None where this one was started without it."""
    for name, least in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_WORLD_SIZE", 1), ("LOCAL_RANK", 0)):
        text = os.environ.get(name)
        if text is not None and not (text.isdecimal() and len(text) < 7 and int(text) >= least):
            raise click.UsageError(f"the environment's {name} must be a whole number from {least} on, as torchrun sets "
                                   f"it, got {text!r}; unset it to train without torchrun")
    return int(os.environ["WORLD_SIZE"]) if "WORLD_SIZE" in os.environ else None


def new_config(outdir: str, dry_run: bool, is_local: bool, opts: dict[str, Any],
               given: set[str]) -> tuple[str, dict[str, Any]]:
    """Description and parameters of a new run, which may start from networks; is_local: from a file or folder."""
    resume = opts["resume"]
    if opts["data"] is None:
        raise click.UsageError("--data is needed for a new run")
    check_outside(outdir, "--data", opts["data"])
    if is_local and not Path(resume).exists():
        raise CheckpointError(f"no such run folder or pickle: {resume}{runs.nearest_runs(resume, outdir)}")
    check_together(opts, given)
    asked = {name: opts[name] for name in sorted(given - RESUME_OPTIONS)}
    network_hash = None
    if opts["init_from"] == "noresume":
        raise ArgumentError("`init_from`=noresume names no networks; leave it out, or give a pickle")
    opts["init_from"] = presets.RESUME_PKLS.get(opts["init_from"], opts["init_from"])
    if opts["init_from"]:
        with user_errors({CheckpointError: "--init-from"}):
            network_hash = trust.trust_named(opts["init_from"])
            opts.update(plain_options(opts["init_from"], opts, given))
    of_new = {name: value for name, value in opts.items() if name not in ("trust_pickle", "data_changed")}
    if opts["find_masks"] > 0:
        of_new["aug"] = "noaug"
    desc, config = setup_training_config(**of_new)
    if opts["find_masks"] > 0:
        if config["total_kimg"] <= opts["find_masks"]:
            raise ArgumentError(f"`find_masks`={opts['find_masks']:g} must be below `kimg`={config['total_kimg']:g}")
        config["found"] = presets.when_found(opts["find_masks"], given)
    if opts["init_from"]:
        adopt_plain(config, opts["init_from"])
    if not dry_run:
        config["data_fingerprint"] = fingerprint(opts["data"], labels=opts["cond"])
        config["masks_fingerprint"] = None if opts["masks"] is None else fingerprint(opts["masks"])
        if config["resume_pkl"] is not None:
            network_hash = trust.trust_named(config["resume_pkl"])
        config.update(network_sha256=network_hash, asked=asked)
    if opts["pl_weight"] > 0:
        click.echo("WARNING: --pl-weight: path-length regularization keeps the layers from emerging", err=True)
    return desc, config


@click.command(cls=CheckedCommand, context_settings=SETTINGS)
@options.run_options
@options.data_options
@options.preset_options
@options.augmentation_options
@options.start_options
@options.speed_options
@options.layer_options
@options.network_options
@options.method_options
@click.pass_context
@user_errors({PictureError: "--data", MaskError: "--masks", CheckpointError: "--resume", FidelityError: "--metrics"})
def main(ctx: click.Context, outdir: str, dry_run: bool, **opts: Any) -> None:
    """Train a generator that draws background, foreground and mask, from unlabelled pictures.

    Pictures of any size are squeezed to 1.125 times the resolution and cropped at random. Sets below 5,000 pictures are
    mirrored too. Without --aug, --cfg=demo, cpu and varied augment only those, from --kimg=100 on, and no run does that
    is shown masks. The run folder gets upstream's snapshots, logs and grids, and layersNNNNNN.png: one scene per
    column, one layer per row. --find-masks (--cfg=cpu: after 32 of 64 kimg) distils a segmenter, which finds masks of
    the pictures; from there on the discriminator sees both, so that scenes become as varied as the pictures.

    Examples:

    \b
    # The built-in data set, then a run that shows masks on a laptop within minutes.
    python -m layered_plugin.dataset_tool shapes --dest=data/shapes.zip
    python train_layered.py --outdir=runs --data=data/shapes.zip --cfg=demo

    \b
    # Your own folder of pictures of one kind of object, on two GPUs.
    python train_layered.py --outdir=runs --data=my-cars --cfg=car --resolution=64 --gpus=2

    \b
    # The paper's own training: WGAN-GP, growing from 8x8 on its schedule.
    python train_layered.py --outdir=runs --data=my-cars --cfg=paper --resolution=128

    \b
    # Without a GPU, with scenes as varied as the pictures; growing from 32x32; with masks of invert.py segment, say.
    python train_layered.py --outdir=runs --data=my-cars --cfg=cpu
    python train_layered.py --outdir=runs --data=my-cars --cfg=cpu --resolution=64
    python train_layered.py --outdir=runs --data=my-cars --cfg=cpu --masks=my-masks/masks

    \b
    # Two objects in every picture; the least coverage is that of one of them.
    python -m layered_plugin.dataset_tool shapes --objects=2 --dest=data/shapes2.zip
    python train_layered.py --outdir=runs --data=data/shapes2.zip --cfg=demo --objects=2 --mask-min=0.08 \\
        --mask-overlap-weight=5

    \b
    # From an ordinary generator of these pictures, of ours or an official one; its sizes are taken over.
    python train_layered.py --outdir=runs --data=my-cars --cfg=car --init-from=stylegan2-car.pkl

    \b
    # Go on with the newest run in a folder, to a greater length.
    python train_layered.py --outdir=runs --resume=latest --kimg=60
    """
    given = {name for name in ctx.params
             if ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)}
    for name, value in presets.preset_options(opts["cfg"], {name: opts[name] for name in given & opts.keys()}).items():
        if name not in given:
            opts[name] = value
    world_size = torchrun_processes()
    if world_size is not None:  # It has the last word on their number.
        if "gpus" in given and opts["gpus"] != world_size:
            raise click.UsageError(f"--gpus must be left out or be {world_size} under torchrun, got {opts['gpus']}")
        opts["gpus"] = world_size
    resume = opts["resume"]
    is_local = bool(resume) and resume not in ("latest", *presets.RESUME_PKLS) and "://" not in resume
    if is_local:
        resume = opts["resume"] = str(runs.complete_run(resume))
    has_networks_alone = is_local and trust.is_saved_generator(resume) and not runs.training_states(resume)
    if resume == "latest" or (is_local and Path(resume).is_dir() and not has_networks_alone):
        if opts["data"] is not None:
            check_outside(outdir, "--data", opts["data"])
        desc, config = "", resume_config(resume, outdir, opts, given)
    else:
        desc, config = new_config(outdir, dry_run, is_local, opts, given)
    click.echo(json.dumps(dict(base=str(BASE), **config), indent=2), err=not dry_run)
    if not dry_run:
        launch(config, outdir, desc, find_masks)


if __name__ == "__main__":
    main()
