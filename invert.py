"""From a trained generator to masks of real pictures: train an encoder, distil a segmenter, segment.

Command line of the second half of the paper (sections 3.3 and 4), and of what goes past it.
"""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from layered_plugin import command_line, runs
from layered_plugin.command_line import DEVICES, SEED, SETTINGS, CheckedGroup, Number, Whole, user_errors, writing
from layered_plugin.segmentation.commands import run_training
from layered_plugin.segmentation.onnx_export import export_onnx
from layered_plugin.segmentation.segment_command import merge, segment
from layered_plugin.segmentation.train_distilled import DEFAULTS, choose_adapt, train_distilled
from layered_plugin.segmentation.train_encoder import train_encoder

COUNT, WEIGHT = Whole(min=1), Number(min=0)


@click.group(cls=CheckedGroup, context_settings=SETTINGS)
def main() -> None:
    """From a trained generator to masks of real pictures."""


# What `train` and `distill` share, upstream's first.
common_options = command_line.several_options(
    click.option("--outdir", help="Folder for the results", required=True, metavar="DIR"),
    click.option("--network", help="Layered generator", metavar="RUN|PKL|URL|DIR"),
    click.option("--snapshot", help="Which of a run's", default="best", metavar="best|latest|KIMG"),
    click.option("--seed", help="Random seed", type=SEED, default=0),
    click.option("--device", help="Where to train", type=DEVICES, default="auto"),
    click.option("--resume", help="Go on with a run", metavar="latest|RUN"),
    click.option("--data-changed", help="If a resumed run's pictures changed", type=click.Choice(["refuse", "ok"]),
                 default="refuse"),
    click.option("--trust-pickle", help="Load an unknown network that a run names", is_flag=True),
    click.option("-n", "--dry-run", help="Print the settings, train nothing", is_flag=True))


@main.command(short_help="The paper's encoder: also the background behind the object")
@common_options
@click.option("--data", help="Real pictures", metavar="ZIP|DIR")
@click.option("--mode", help="One encoder, or one per chunk", type=click.Choice(["chunks", "dataset"]),
              default="chunks")
@click.option("--chunk-size", help="Pictures per chunk", type=Whole(min=2), default=100)
@click.option("--num", help="Only the first N pictures (chunks)", type=Whole(min=2))
@click.option("--jobs", help="Chunks trained side by side", type=Whole(1, 1024), default=1)
@click.option("--steps", help="Steps on real pictures, per encoder", type=COUNT, default=1000)
@click.option("--batch", help="Pictures a step", type=Whole(2, 2**16), default=32)
@click.option("--lr", help="Learning rate of Adam", type=Number(min=0, min_open=True), default=1e-4)
@click.option("--feature-resolution", help="D's features  [default: 16, at most half]", type=Whole(min=4),
              metavar="PX")
@click.option("--feature-weight", help="Weight of D's features (eq. 7)", type=WEIGHT, default=1.0)
@click.option("--from-mean", help="Add the codes to the mean w", type=bool, default=True, metavar="BOOL")
@click.option("--mean-w-weight", help="Weight of the distance to the mean w", type=WEIGHT, default=0.0)
@click.option("--mask-border-weight", help="Weight of the mask along the border", type=WEIGHT, default=0.0)
@click.option("--mask-area-weight", help="Weight of the mean mask", type=WEIGHT, default=0.0)
@click.option("--max-shift", help="Largest shift that E may apply, 0 = none", type=Number(0, 0.5),
              default=0.2, metavar="FRAC")
@click.option("--pretrain", help="Steps on generated pictures (dataset)", type=Whole(min=0), default=0)
@click.option("--init", help="Start from this encoder of a data set", metavar="RUN")
@click.pass_context
@user_errors()
def train(ctx: click.Context, **opts: Any) -> None:
    """Train the encoder of the paper: real picture to the generator's codes (section 3.3, eq. 7).

    --mode=chunks is the paper's protocol: an encoder for each 100 pictures, which segments these and no others.
    --mode=dataset trains one encoder for all pictures, also unseen ones.

    Examples:

    \b
    # One encoder for the whole data set, that has seen generated pictures first.
    python invert.py train --network=runs/00000-my-cars --data=my-cars --mode=dataset --pretrain=500 --outdir=runs

    \b
    # The paper's protocol on the first 1,000 pictures, two chunks at a time.
    python invert.py train --network=runs/00000-my-cars --data=my-cars --num=1000 --jobs=2 --outdir=runs
    """
    if opts["resume"] is None:  # A resumed run has its own.
        if opts["data"] is None:
            raise click.UsageError("--data is needed for a new run")
        if opts["mode"] == "chunks" and opts["pretrain"] > 0:
            raise click.UsageError("--pretrain needs --mode=dataset; then start chunks from its run with --init")
        for name in ("num", "chunk_size", "jobs"):
            if opts["mode"] == "dataset" and ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --mode=chunks")
    run_training(ctx, "train", opts, "chunks" if opts["mode"] == "chunks" else "encoder", train_encoder)


@main.command(short_help="A U-Net from generated pictures, then real ones: quick, any picture")
@common_options
@click.option("--data", help="Real pictures to adapt to, unlabelled", metavar="ZIP|DIR")
@click.option("--steps", help="Steps on generated pairs", type=COUNT, default=DEFAULTS["steps"])
@click.option("--adapt", help="Batches of real pictures, below 5000: 1200", type=Whole(min=0),
              default=DEFAULTS["adapt"])
@click.option("--batch", help="Pictures a step", type=Whole(4, 2**16), default=DEFAULTS["batch"])
@click.option("--reuse", help="Steps by each batch of real pictures", type=Whole(1, 100), default=DEFAULTS["reuse"])
@click.option("--shift", help="Largest shift of generated objects", type=Number(0, 0.5), default=DEFAULTS["shift"],
              metavar="FRAC")
@click.option("--vary-shape", help="Share of objects with a bent outline", type=Number(0, 1),
              default=DEFAULTS["vary_shape"], metavar="FRAC")
@click.option("--colors", help="Correct real pictures' masks by color", type=bool, default=DEFAULTS["colors"],
              metavar="BOOL")
@click.option("--margin", help="Border where objects are rare, in training", type=Number(0, 0.5),
              default=DEFAULTS["margin"], metavar="FRAC")
@click.option("--paste", help="Share of real objects pasted on other grounds", type=Number(0, 1),
              default=DEFAULTS["paste"], metavar="FRAC")
@click.option("--min-coverage", help="Objects smaller than this are left out", type=Number(0, 1),
              default=DEFAULTS["min_coverage"], metavar="FRAC")
@click.option("--max-coverage", help="Objects larger than this are left out", type=Number(0, 1),
              default=DEFAULTS["max_coverage"], metavar="FRAC")
@click.pass_context
@user_errors()
def distill(ctx: click.Context, **opts: Any) -> None:
    """Distil a small U-Net that segments any picture of the kind, from pictures that the generator draws.

    No true mask is seen. With --data it goes on with real, unlabelled pictures, its own cleaned masks as targets.

    Examples:

    \b
    python invert.py distill --network=runs/00000-my-cars --data=my-cars --outdir=runs
    python invert.py segment --model=runs/00001-distill --images=my-cars --outdir=my-masks
    """
    if opts["min_coverage"] >= opts["max_coverage"]:
        raise click.UsageError(f"--min-coverage must be below --max-coverage, got {opts['min_coverage']:g} and "
                               f"{opts['max_coverage']:g}")
    given = ctx.get_parameter_source("adapt") == ParameterSource.COMMANDLINE
    if opts["resume"] is None and opts["data"] is None and given and opts["adapt"] > 0:
        raise click.UsageError("--adapt needs --data, the real pictures to adapt to")
    if opts["resume"] is None and opts["data"] is not None and not given:
        opts["adapt"] = choose_adapt(opts["data"])
    run_training(ctx, "distill", opts, "distill", train_distilled)


main.add_command(segment)
main.add_command(merge)


@main.command(short_help="A distilled model as ONNX")
@click.option("--model", help="Run of distill", required=True, metavar="RUN")
@click.option("--dest", help="File  [default: model.onnx in the run]", metavar="ONNX")
@user_errors()
def export(model: str, dest: str | None) -> None:
    """Export a distilled segmenter as ONNX, and check it against PyTorch.

    Input `image` [N, 3, R, R], float32 in [-1, 1]; output `mask` [N, 1, R, R], float32 in [0, 1]. Your program fits
    the picture into the square in its own proportions, border pixels repeated beside it (docs/segmenting.md).

    \b
    Example:
    python invert.py export --model=runs/00001-distill --dest=apple.onnx
    """
    path = Path(dest) if dest is not None else runs.find_model(model) / "model.onnx"
    with writing("--dest", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        difference = export_onnx(model, path)
    click.echo(f"{path}: differs from PyTorch by at most {difference:.1e}", err=True)


if __name__ == "__main__":
    main()
