"""Train a layered generator on unlabelled pictures of one kind of object.

Command line of the plugin; upstream's options, then ours.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

try:
    from layered_plugin import BASE
except ImportError as err:  # An unusable base is the user's to mend: no traceback.
    sys.exit(f"Error: {err}")
from layered_plugin import checkpoint, device, growing, presets
from layered_plugin.dataset import CROP_MARGIN, PictureDataset
from layered_plugin.launcher import launch
from layered_plugin.pictures import PictureError

# Options that may change when a run is resumed; the others are the run's own.
RESUME_OPTIONS = {"outdir", "resume", "dry_run", "kimg", "snap", "tick", "workers", "metrics", "on_collapse"}


def setup_training_config(*, data, gpus, snap, metrics, seed, cond, subset, mirror, cfg, gamma, kimg, batch, aug, p,
                          target, augpipe, resume, freezed, fp32, nhwc, nobench, allow_tf32, workers, shift, mask_min,
                          mask_size_weight, mask_binary_weight, mask_border_weight, bg_jitter, crop, generator,
                          mapping, resolution, device_name, precision, batch_gpu, pl_weight, style_mix, cbase, cmax,
                          w_dim, map_depth, lr, tick, on_collapse, gan_loss, gp_weight,
                          drift_weight, grow, grow_schedule) -> tuple[str, dict[str, Any]]:
    """Turn option values into the parameters of ``training_loop``; makes no folder and touches no device.

    Returns:
        Description for the run folder's name; the loop's parameters but for rank, training_set, abort_fn and
        progress_fn. A growing run has its ``stages`` beside them, and the last stage's parameters.

    Raises:
        click.UsageError: An option's value is wrong or does not fit another.
        click.ClickException: The data set cannot be used.
    """
    # Data set and resolution.
    try:
        probe = PictureDataset(path=data, size_px=4, use_labels=cond, max_size=subset)
    except PictureError as err:
        raise click.ClickException(f"--data: {err}") from err
    name, native_px, num_pictures, has_labels = probe.name, min(probe.native_size), len(probe), probe.has_labels
    probe.close()
    if cond and not has_labels:
        raise click.UsageError(f"--cond=1 needs labels in dataset.json, but {data} has none")
    if resolution is None:
        resolution = 1 << (native_px.bit_length() - 1)
    if resolution < 8 or resolution & (resolution - 1):
        raise click.UsageError(f"--resolution must be a power of two, at least 8, got {resolution}")

    # Base configuration; of a growing run, its last stage's.
    stages = []
    try:
        if grow_schedule is not None:
            stages = growing.parse_schedule(grow_schedule, resolution, lr)
        elif grow:
            stages = growing.choose_stages(resolution, kimg, batch, lr)
    except ValueError as err:
        raise click.UsageError(str(err)) from err
    if stages:
        kimg, batch, lr = sum(stage.kimg for stage in stages), stages[-1].batch, stages[-1].lr
    base = presets.base_settings(cfg, resolution, gpus, batch)
    given = dict(kimg=kimg, gamma=gamma, lr=lr, map_depth=map_depth)
    base.update({key: value for key, value in given.items() if value is not None})
    batch = base["batch"]
    if batch % gpus != 0:
        raise click.UsageError(f"--batch must be a multiple of --gpus, got {batch} and {gpus}")
    batch_gpu_limit = batch_gpu
    if batch_gpu is None:
        batch_gpu = max(batch // max(base["ref_gpus"], gpus), 1)
    elif stages:
        batch_gpu = min(batch_gpu, batch // gpus)
    if (batch // gpus) % batch_gpu != 0:
        raise click.UsageError(f"--batch-gpu must divide --batch / --gpus = {batch // gpus}, got {batch_gpu}")
    mbstd = min(base["mbstd"], batch_gpu)
    if batch_gpu % mbstd != 0:
        raise click.UsageError(f"--batch-gpu must be a multiple of the minibatch-std group {mbstd}, got {batch_gpu}")
    if stages:
        try:
            stages = growing.plan(stages, gpus, batch_gpu_limit, base["ref_gpus"], mbstd)
        except ValueError as err:
            raise click.UsageError(str(err)) from err
    channels = dict(channel_base=cbase or int(base["fmaps"] * 32768), channel_max=cmax)

    # Device and precision.
    if fp32 and precision not in ("auto", "fp32"):
        raise click.UsageError(f"--fp32=1 contradicts --precision={precision}")
    try:
        device_name = device.choose_device(device_name)
        precision, reason = device.choose_precision("fp32" if fp32 else precision, device_name, BASE.name)
    except ValueError as err:
        raise click.UsageError(str(err)) from err
    click.echo(f"Device: {device_name}, precision: {precision} ({reason})", err=True)
    if precision != "fp32":
        half = dict(num_fp16_res=4, conv_clamp=256)
        block = dict(fp16_channels_last=nhwc or precision == "bf16")
        if precision == "bf16":
            block["half_dtype"] = "bfloat16"
    else:
        half, block = dict(num_fp16_res=0, conv_clamp=None), {}

    # Augmentation.
    if p is not None and aug != "fixed":
        raise click.UsageError("--p can only be given with --aug=fixed")
    if aug == "fixed" and p is None:
        raise click.UsageError("--aug=fixed needs --p")
    if aug == "noaug" and augpipe is not None:
        raise click.UsageError("--augpipe cannot be given with --aug=noaug")
    if aug != "ada" and target is not None:
        raise click.UsageError("--target can only be given with --aug=ada")
    pipe = presets.AUGPIPES[augpipe or "bgc"]

    metrics = [] if metrics in (None, "none") else metrics.split(",")
    if metrics and BASE.name == "bundled":
        raise click.UsageError("--metrics needs the official base (see vendor/README.md); use --metrics=none")
    if pl_weight > 0:
        click.echo("WARNING: --pl-weight: path-length regularization keeps the layers from emerging", err=True)

    if gan_loss == "wgan-gp":
        gan_loss_kwargs = dict(class_name="layered_plugin.gan_loss.WganGpLoss", gp_weight=gp_weight,
                               drift_weight=drift_weight)
    else:
        gan_loss_kwargs = dict(class_name="layered_plugin.loss.LayeredLoss", r1_gamma=base["gamma"])

    block_D = dict(block, freeze_layers=freezed) if freezed else block
    # Floats: current PyTorch refuses betas that mix them with integers.
    opt = dict(class_name="torch.optim.Adam", lr=base["lr"], betas=[0.0, 0.99], eps=1e-8, fused=device_name != "mps")
    size_px = round(resolution * CROP_MARGIN) if crop else resolution
    config = dict(
        run_dir=None,
        training_set_kwargs=dict(class_name="layered_plugin.dataset.PictureDataset", path=str(data), size_px=size_px,
                                 use_labels=cond, max_size=subset or num_pictures, xflip=mirror, random_seed=seed),
        data_loader_kwargs=dict(pin_memory=device_name == "cuda", num_workers=workers,
                                prefetch_factor=2 if workers > 0 else None),
        G_kwargs=dict(class_name="layered_plugin.networks.LayeredGenerator", z_dim=w_dim, w_dim=w_dim,
                      generator=generator, mapping=mapping, mapping_kwargs=dict(num_layers=base["map_depth"]),
                      synthesis_kwargs=dict(channels, **half, **block)),
        D_kwargs=dict(class_name="training.networks.Discriminator", architecture="orig" if cfg == "cifar" else "resnet",
                      **channels, **half, block_kwargs=block_D, mapping_kwargs={},
                      epilogue_kwargs=dict(mbstd_group_size=mbstd)),
        G_opt_kwargs=opt, D_opt_kwargs=opt,
        augment_kwargs=None if aug == "noaug" else dict(class_name="training.augment.AugmentPipe", **pipe),
        loss_kwargs=dict(gan_loss_kwargs, pl_weight=pl_weight,
                         style_mixing_prob=style_mix, shift=shift, mask_min=mask_min,
                         mask_size_weight=mask_size_weight, mask_binary_weight=mask_binary_weight,
                         mask_border_weight=mask_border_weight, bg_jitter=bg_jitter),
        metrics=metrics, random_seed=seed, num_gpus=gpus, device=device_name, resolution=resolution,
        batch_size=batch, batch_gpu=batch_gpu, ema_kimg=base["ema"], ema_rampup=base["ramp"] if not resume else None,
        G_reg_interval=4 if pl_weight > 0 else None, D_reg_interval=None if gan_loss == "wgan-gp" else 16,
        augment_p=p if aug == "fixed" else 0, ada_target=None if aug != "ada" else 0.6 if target is None else target,
        ada_interval=4, ada_kimg=100 if resume else 500,
        total_kimg=base["kimg"], kimg_per_tick=tick, image_snapshot_ticks=snap, network_snapshot_ticks=snap,
        resume_pkl=resume, resume_state=None, fade_kimg=None, cudnn_benchmark=not nobench, allow_tf32=allow_tf32,
        on_collapse=on_collapse, **(dict(stages=stages) if stages else {}))
    parts = [name, "cond" if cond else "", f"subset{subset}" if subset else "", "mirror" if mirror else "",
             f"{cfg}{gpus}" if cfg == "auto" else cfg, f"{resolution}px",
             "grow" if stages else "", f"kimg{base['kimg']:g}", f"batch{batch}",
             aug if aug != "ada" else "", f"p{p:g}" if p is not None else "",
             gan_loss if gan_loss != "logistic" else "", f"shift{shift:g}", f"seed{seed}",
             "resumecustom" if resume else ""]
    return "-".join(part for part in parts if part), config


def check_together(opts: dict[str, Any], given: set[str]) -> None:
    """Refuse options that say nothing beside others that were given; values of a preset may.

    Raises:
        click.UsageError: Naming the option and the remedy.
    """
    gan_loss = opts["gan_loss"]
    if gan_loss == "wgan-gp" and "gamma" in given:
        raise click.UsageError("--gamma is R1's weight, which --gan-loss=wgan-gp has not; see --gp-weight")
    for name in ("gp_weight", "drift_weight"):
        if gan_loss != "wgan-gp" and name in given:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --gan-loss=wgan-gp")
    for name in ("kimg", "batch"):
        if opts["grow_schedule"] is not None and name in given:
            raise click.UsageError(f"--{name} stands in --grow-schedule; leave it out, or use --grow without one")
    if (opts["grow"] or opts["grow_schedule"] is not None) and opts["freezed"]:
        raise click.UsageError("--freezed is for transfer learning; a growing discriminator has no fixed first layers")


def resume_config(resume: str, outdir: str, opts: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """Parameters of a run that goes on where it stopped: its own options, and the few that may change."""
    try:
        run_dir = checkpoint.find_run(outdir, resume)
    except checkpoint.CheckpointError as err:
        raise click.ClickException(f"--resume: {err}") from err
    fixed = [param.opts[0] for param in main.params if param.name in given - RESUME_OPTIONS]
    if fixed:
        raise click.UsageError(f"{fixed[0]} cannot change when {run_dir} is resumed; leave it out, or start a new run")
    options_file = run_dir / "training_options.json"
    try:
        config = json.loads(options_file.read_text())
    except (OSError, ValueError) as err:
        raise click.ClickException(f"--resume: cannot read {options_file}: {err}") from err
    base = config.pop("base")
    if base != str(BASE):
        click.echo(f"WARNING: {run_dir} was made on the base {base}; going on with {BASE}", err=True)
    config.update(run_dir=str(run_dir), resume_state=str(checkpoint.training_states(run_dir)[-1]))
    names = dict(kimg="total_kimg", tick="kimg_per_tick", on_collapse="on_collapse")
    config.update({names[key]: opts[key] for key in given & names.keys()})
    if "snap" in given:
        config.update(image_snapshot_ticks=opts["snap"], network_snapshot_ticks=opts["snap"])
    if "workers" in given:
        config["data_loader_kwargs"].update(num_workers=opts["workers"],
                                            prefetch_factor=2 if opts["workers"] > 0 else None)
    if "metrics" in given:
        config["metrics"] = [] if opts["metrics"] == "none" else opts["metrics"].split(",")
    return config


@click.command(context_settings=dict(show_default=True, max_content_width=100))
# General options.
@click.option("--outdir", help="Where to save the results", required=True, metavar="DIR")
@click.option("--gpus", help="Number of processes, one per GPU", type=click.IntRange(min=1), default=1, metavar="INT")
@click.option("--snap", help="Snapshot interval", type=click.IntRange(min=1), default=50, metavar="TICKS")
@click.option("--metrics", help="Metrics at every snapshot (official base)", default="none", metavar="LIST")
@click.option("--seed", help="Random seed", type=click.IntRange(min=0), default=0, metavar="INT")
@click.option("-n", "--dry-run", help="Print training options and exit", is_flag=True)
# Data set.
@click.option("--data", help="Training pictures", metavar="ZIP|DIR")
@click.option("--cond", help="Train on the labels of dataset.json", type=bool, default=False, metavar="BOOL")
@click.option("--subset", help="Train on only so many pictures", type=click.IntRange(min=1), metavar="INT")
@click.option("--mirror", help="Mirror the pictures too", type=bool, default=False, metavar="BOOL")
# Base config.
@click.option("--cfg", help="Base config", type=click.Choice(presets.NAMES), default="auto")
@click.option("--gamma", help="R1 weight  [default: by --cfg]", type=click.FloatRange(min=0), metavar="FLOAT")
@click.option("--kimg", help="Training length  [default: by --cfg]", type=click.FloatRange(min=0, min_open=True),
              metavar="KIMG")
@click.option("--batch", help="Total batch size  [default: by --cfg]", type=click.IntRange(min=1), metavar="INT")
# Discriminator augmentation.
@click.option("--aug", help="Augmentation mode", type=click.Choice(["noaug", "ada", "fixed"]), default="ada")
@click.option("--p", help="Probability for --aug=fixed", type=click.FloatRange(0, 1), metavar="FLOAT")
@click.option("--target", help="ADA target  [default: 0.6]", type=click.FloatRange(0, 1), metavar="FLOAT")
@click.option("--augpipe", help="Augmentation pipeline  [default: bgc]", type=click.Choice(list(presets.AUGPIPES)))
# Resume and transfer learning.
@click.option("--resume", help="Go on with a run, or start from a pickle", metavar="latest|RUN|PKL|URL")
@click.option("--freezed", help="Freeze so many layers of D", type=click.IntRange(min=0), default=0, metavar="INT")
# Performance options.
@click.option("--fp32", help="Upstream's name for --precision=fp32", type=bool, default=False, metavar="BOOL")
@click.option("--nhwc", help="Channels-last layout with fp16", type=bool, default=False, metavar="BOOL")
@click.option("--nobench", help="Disable cuDNN benchmarking", type=bool, default=False, metavar="BOOL")
@click.option("--allow-tf32", help="Allow TF32 inside PyTorch", type=bool, default=False, metavar="BOOL")
@click.option("--workers", help="DataLoader processes for large data", type=click.IntRange(min=0), default=3,
              metavar="INT")
# Layered model.
@click.option("--shift", help="Largest shift, of the resolution (delta)", type=click.FloatRange(0, 0.5),
              default=0.125, metavar="FRAC")
@click.option("--mask-min", help="Mask coverage that costs nothing (eta)", type=click.FloatRange(0, 1), default=0.25,
              metavar="FRAC")
@click.option("--mask-size-weight", help="Weight of the mask size (gamma_1)", type=click.FloatRange(min=0),
              default=2.0, metavar="FLOAT")
@click.option("--mask-binary-weight", help="Weight of binarisation (gamma_2)", type=click.FloatRange(min=0),
              default=2.0, metavar="FLOAT")
@click.option("--mask-border-weight", help="Weight of the mask along the border", type=click.FloatRange(min=0),
              default=0.0, metavar="FLOAT")
@click.option("--bg-jitter", help="Background contrast jitter, 0 = off", type=click.FloatRange(0, 1), default=0.3,
              metavar="FRAC")
@click.option("--crop", help="Crop real pictures at random", type=bool, default=True, metavar="BOOL")
@click.option("--generator", help="Synthesis networks", type=click.Choice(["separate", "single"]),
              default="separate")
@click.option("--mapping", help="Mapping networks", type=click.Choice(["separate", "shared"]), default="separate")
@click.option("--resolution", help="Of the networks  [default: by --data]", type=int, metavar="PX")
@click.option("--device", "device_name", help="Where to train", type=click.Choice(["auto", "cpu", "cuda", "mps"]),
              default="auto")
@click.option("--precision", help="Of the large layers", type=click.Choice(device.PRECISIONS), default="auto")
@click.option("--batch-gpu", help="Batch per process and round  [default: all]", type=click.IntRange(min=1),
              metavar="INT")
@click.option("--pl-weight", help="Path-length weight, 0 = off", type=click.FloatRange(min=0), default=0.0,
              metavar="FLOAT")
@click.option("--style-mix", help="Style mixing probability", type=click.FloatRange(0, 1), default=0.9,
              metavar="FLOAT")
@click.option("--cbase", help="Channels x resolution  [default: by --cfg]", type=click.IntRange(min=1),
              metavar="INT")
@click.option("--cmax", help="Most channels of a layer", type=click.IntRange(min=1), default=512, metavar="INT")
@click.option("--w-dim", help="Width of z and of each half of w", type=click.IntRange(min=1), default=512,
              metavar="INT")
@click.option("--map-depth", help="Mapping layers  [default: by --cfg]", type=click.IntRange(min=1), metavar="INT")
@click.option("--lr", help="Learning rate  [default: by --cfg]", type=click.FloatRange(min=0, min_open=True),
              metavar="FLOAT")
@click.option("--tick", help="Progress interval", type=click.FloatRange(min=0, min_open=True), default=4.0,
              metavar="KIMG")
@click.option("--on-collapse", help="If the layers stay collapsed", type=click.Choice(["warn", "stop", "restart"]),
              default="warn")
@click.option("--gan-loss", help="Adversarial loss", type=click.Choice(["logistic", "wgan-gp"]), default="logistic")
@click.option("--gp-weight", help="Gradient penalty of wgan-gp (lambda)", type=click.FloatRange(min=0), default=10.0,
              metavar="FLOAT")
@click.option("--drift-weight", help="Drift term of wgan-gp (epsilon)", type=click.FloatRange(min=0), default=0.001,
              metavar="FLOAT")
@click.option("--grow/--no-grow", help="Grow from 8x8, on the paper's schedule", default=False)
@click.option("--grow-schedule", help="Grow on a schedule of your own", metavar="RES:KIMG:BATCH[:LR],...")
@click.pass_context
def main(ctx: click.Context, outdir: str, dry_run: bool, **opts: Any) -> None:
    """Train a generator that draws background, foreground and mask, from unlabelled pictures.

    Pictures of any size are squeezed to 1.125 times the resolution and cropped at random. The run folder gets
    upstream's snapshots, logs and grids, and layersNNNNNN.png: one scene per column, one layer per row.

    Examples:

    \b
    # The built-in data set, then a run that shows masks on a laptop within minutes.
    python -m layered_plugin.shapes --dest=data/shapes.zip
    python train_layered.py --outdir=runs --data=data/shapes.zip --cfg=demo

    \b
    # Your own folder of pictures of one kind of object, on two GPUs.
    python train_layered.py --outdir=runs --data=my-cars --cfg=car --resolution=64 --gpus=2

    \b
    # The paper's own training: WGAN-GP, growing from 8x8 on its schedule.
    python train_layered.py --outdir=runs --data=my-cars --cfg=paper --resolution=128

    \b
    # Go on with the newest run in a folder, to a greater length.
    python train_layered.py --outdir=runs --resume=latest --kimg=60
    """
    given = {name for name in ctx.params
             if ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)}
    for name, value in presets.preset_options(opts["cfg"]).items():
        if name not in given:
            opts[name] = value
    world_size = os.environ.get("WORLD_SIZE")
    if world_size is not None:  # Started by torchrun, which has the last word on the number of processes.
        if "gpus" in given and opts["gpus"] != int(world_size):
            raise click.UsageError(f"--gpus must be left out or be {world_size} under torchrun, got {opts['gpus']}")
        opts["gpus"] = int(world_size)
    resume = opts["resume"]
    if resume == "latest" or (resume and Path(resume).is_dir()):
        desc, config = "", resume_config(resume, outdir, opts, given)
    else:
        if opts["data"] is None:
            raise click.UsageError("--data is needed for a new run")
        if resume and "://" not in resume and not Path(resume).is_file():
            raise click.ClickException(f"--resume: no such run folder or pickle: {resume}")
        check_together(opts, given)
        desc, config = setup_training_config(**opts)
    click.echo(json.dumps(dict(base=str(BASE), **config), indent=2), err=not dry_run)
    if not dry_run:
        launch(config, outdir, desc)


if __name__ == "__main__":
    main()
