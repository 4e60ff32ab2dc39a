"""Options of ``train_layered.py`` in the order of its help: upstream's, then ours."""

from typing import Any

import click

from layered_plugin import device
from layered_plugin.command_line import DEVICES, SEED, Number, Whole, several_options
from layered_plugin.model.mask_losses import SIZE_OVER
from layered_plugin.training import presets


class Ramp(click.ParamType):
    """``A``: a number. ``A:B``: A in the first half of the run, then straight to B at its end (``phases.ramp``).

    Args:
        high: Largest value; None = no bound. The smallest is 0.
        min_open: Is 0 itself no value?
    """

    name = "ramp"

    def __init__(self, high: float | None = None, min_open: bool = False) -> None:
        self._number = Number(0, high, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A number, or a list of two."""
        if not isinstance(value, str):
            return value
        numbers: list[float] = [self._number(text, param, ctx) for text in value.split(":")]
        if len(numbers) > 2:
            self.fail(f"{value!r} is neither a number nor two with a colon between them", param, ctx)
        return numbers if len(numbers) == 2 else numbers[0]


run_options = several_options(
    click.option("--outdir", help="Folder that gets the run folder", required=True, metavar="DIR"),
    click.option("--gpus", help="Number of processes, one per GPU", type=Whole(1, 4096), default=1),
    click.option("--snap", help="Ticks from snapshot to snapshot", type=Whole(1, 2**20), default=50, metavar="TICKS"),
    click.option("--metrics", help="Of each snapshot, such as fid50k_full", default="none", metavar="LIST"),
    click.option("--fid-weights", help="Inception weights for --metrics", metavar="FILE"),
    click.option("--seed", help="Seed of all random numbers", type=SEED, default=0),
    click.option("-n", "--dry-run", help="Print the settings, train nothing", is_flag=True))

data_options = several_options(
    click.option("--data", help="Training pictures", metavar="ZIP|DIR"),
    click.option("--masks", help="Masks; pictures without one are left out", metavar="ZIP|DIR"),
    click.option("--find-masks", help="Find masks after so many kimg, 0 = never", type=Number(min=0), default=0.0,
                 metavar="KIMG"),
    click.option("--cond", help="Train on labels: dataset.json, .cls, .json", type=bool, default=False, metavar="BOOL"),
    click.option("--subset", help="Train on only so many pictures", type=Whole(min=1)),
    click.option("--mirror", help="Mirror them too  [default: below 5000 pictures]", type=bool, metavar="BOOL"))

# Presets, and what overrides them.
preset_options = several_options(
    click.option("--cfg", help="Preset of settings", type=click.Choice(presets.NAMES), default="auto"),
    click.option("--gamma", help="R1 weight  [default: by --cfg]", type=Ramp(), metavar="FLOAT[:END]"),
    click.option("--kimg", help="Real pictures to show  [default: by --cfg]", metavar="KIMG",
                 type=Number(min=0, min_open=True)),
    click.option("--batch", help="Pictures per iteration  [default: by --cfg]", type=Whole(1, 2**20)))

# What the discriminator sees.
augmentation_options = several_options(
    click.option("--aug", help="Augmentation  [default: ada; brief presets: see text]",
                 type=click.Choice(["noaug", "ada", "fixed"])),
    click.option("--p", help="Augmentation probability, with --aug=fixed", type=Number(0, 1)),
    click.option("--target", help="Sign of real logits that ADA aims at  [default: 0.6]", type=Number(0, 1)),
    click.option("--augpipe", help="Transforms of the augmentation  [default: bgc]",
                 type=click.Choice(list(presets.AUGPIPES))))

start_options = several_options(
    click.option("--resume", help="Go on with a run, or start from networks", metavar="latest|RUN|PKL|URL|DIR|NAME"),
    click.option("--init-from", help="Start layers from an ordinary StyleGAN2", metavar="PKL|URL|NAME"),
    click.option("--data-changed", help="If a resumed run's pictures changed", type=click.Choice(["refuse", "ok"]),
                 default="refuse"),
    click.option("--trust-pickle", help="Load an unknown pickle that a run names", is_flag=True),
    click.option("--freezed", help="Freeze so many layers of D", type=Whole(min=0), default=0))

speed_options = several_options(
    click.option("--fp32", help="Upstream's name for --precision=fp32", type=bool, default=False, metavar="BOOL"),
    click.option("--nhwc", help="Channels-last layout with fp16", type=bool, default=False, metavar="BOOL"),
    click.option("--nobench", help="Let cuDNN not try algorithms out", type=bool, default=False, metavar="BOOL"),
    click.option("--allow-tf32", help="Let PyTorch calculate in TF32", type=bool, default=False, metavar="BOOL"),
    click.option("--workers", help="DataLoader processes for large data", type=Whole(0, 1024), default=3))

# What is asked of the layers, and how they are shown to D.
layer_options = several_options(
    click.option("--shift", help="Largest shift, of the resolution (delta)", type=Ramp(high=0.5), default="0.125",
                 metavar="FRAC[:END]"),
    click.option("--mask-min", help="Mask coverage that costs nothing (eta)", type=Number(0, 1), default=0.25,
                 metavar="FRAC"),
    click.option("--mask-size-weight", help="Weight of the mask size (gamma_1)", type=Number(min=0), default=2.0),
    click.option("--mask-size-over", help="Eq. 3 for each picture, or the batch's mean", type=click.Choice(SIZE_OVER),
                 default="picture"),
    click.option("--mask-floor", help="Least coverage of each mask, of --mask-min",
                 type=Number(0, 1), default=0.0, metavar="FRAC"),
    click.option("--mask-max", help="Largest coverage of each mask, 1 = off", type=Number(0, 1), default=1.0,
                 metavar="FRAC"),
    click.option("--mask-binary-weight", help="Weight of binarisation (gamma_2)", type=Ramp(), default="2",
                 metavar="FLOAT[:END]"),
    click.option("--mask-border-weight", help="Weight of the mask along the border", type=Ramp(), default="0",
                 metavar="FLOAT[:END]"),
    click.option("--mask-center-weight", help="Weight of masks that leave out the middle", type=Number(min=0),
                 default=0.0),
    click.option("--mask-variety", help="Least deviation of masks, of the largest", type=Ramp(high=1),
                 default="0", metavar="FRAC[:END]"),
    click.option("--mask-variety-weight", help="Weight of too little deviation", type=Number(min=0), default=10.0),
    click.option("--range-weight", help="Weight of layers outside [-1, 1]", type=Number(min=0), default=0.0),
    click.option("--mask-overlap-weight", help="Weight of the overlap of objects", type=Number(min=0), default=0.0),
    click.option("--bg-jitter", help="Background contrast jitter, 0 = off", type=Number(0, 1), default=0.3,
                 metavar="FRAC"),
    click.option("--crop", help="Crop real pictures at random", type=bool, default=True, metavar="BOOL"))

# The networks, and how they learn.
network_options = several_options(
    click.option("--objects", help="Objects per picture (K)", type=Whole(1, 64), default=1),
    click.option("--generator", help="Synthesis networks", type=click.Choice(["separate", "single"]),
                 default="separate"),
    click.option("--mapping", help="Mapping networks", type=click.Choice(["separate", "shared"]), default="separate"),
    click.option("--resolution", help="Of the networks  [default: by first picture]", type=Whole(1, 4096),
                 metavar="PX"),
    click.option("--device", "device_name", help="Where to train", type=DEVICES, default="auto"),
    click.option("--precision", help="Of the large layers", type=click.Choice(device.PRECISIONS), default="auto"),
    click.option("--batch-gpu", help="Batch per process and round  [default: all]", type=Whole(1, 2**20)),
    click.option("--pl-weight", help="Path-length weight, 0 = off", type=Number(min=0), default=0.0),
    click.option("--style-mix", help="Style mixing probability", type=Number(0, 1), default=0.9),
    click.option("--cbase", help="Channels x resolution  [default: by --cfg]", type=Whole(1, 2**24)),
    click.option("--cmax", help="Most channels of a layer", type=Whole(1, 2**14), default=512),
    click.option("--w-dim", help="Width of z and of each part of w", type=Whole(1, 2**14), default=512),
    click.option("--map-depth", help="Mapping layers  [default: by --cfg]", type=Whole(1, 64)),
    click.option("--lr", help="Learning rate  [default: by --cfg]", type=Ramp(min_open=True), metavar="FLOAT[:END]"),
    click.option("--d-lr", help="Of the discriminator  [default: --lr]", type=Ramp(min_open=True),
                 metavar="FLOAT[:END]"))

# What watches the run; other losses and ways to train.
method_options = several_options(
    click.option("--tick", help="Progress interval", type=Number(min=0, min_open=True), default=4.0, metavar="KIMG"),
    click.option("--snap-minutes", help="Longest time between snapshots", type=Number(min=0, min_open=True),
                 metavar="MINUTES"),
    click.option("--on-collapse", help="If the layers stay collapsed", type=click.Choice(["warn", "stop", "restart"]),
                 default="warn"),
    click.option("--gan-loss", help="Adversarial loss", type=click.Choice(["logistic", "wgan-gp"]), default="logistic"),
    click.option("--gp-weight", help="Gradient penalty of wgan-gp (lambda)", type=Number(min=0), default=10.0),
    click.option("--drift-weight", help="Drift term of wgan-gp (epsilon)", type=Number(min=0), default=0.001),
    click.option("--grow/--no-grow", help="Grow from 8x8, on the paper's schedule", default=False),
    click.option("--grow-schedule", help="Grow on a schedule of your own", metavar="RES:KIMG:BATCH[:LR],..."))
