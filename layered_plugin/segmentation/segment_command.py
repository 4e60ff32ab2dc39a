"""The commands ``invert.py segment`` and ``invert.py merge``."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from layered_plugin import runs
from layered_plugin.calls import as_typed
from layered_plugin.command_line import DEVICES, CheckedCommand, Number, Whole, check_outside, user_errors, writing
from layered_plugin.cores import usable_cores
from layered_plugin.device import use_own_gpu
from layered_plugin.segmentation.merging import merge_shards
from layered_plugin.segmentation.outputs import say_doubtful
from layered_plugin.segmentation.segment_files import segment_files
from layered_plugin.segmentation.segmenter import Refinement, Segmenter
from layered_plugin.segmentation.shares import FORMATS, Shard, shard_manifest


@click.command(cls=CheckedCommand, short_help="Masks, cut-outs and layers of your pictures, by either")
@click.option("--model", help="Run of train or distill", required=True, metavar="RUN")
@click.option("--images", help="Pictures of any size", required=True, metavar="DIR|ZIP|TAR|FILE|PATTERN")
@click.option("--outdir", help="Folder for the results", required=True, metavar="DIR")
@click.option("--format", "form", help="What results are written as", type=click.Choice(FORMATS), default="files")
@click.option("--batch", help="Pictures at a time", type=Whole(1, 2**16), default=64)
@click.option("--threshold", help="Opacity that counts as object", default=0.5, metavar="FRAC",
              type=Number(0, 1, min_open=True, max_open=True))
@click.option("--soft", help="Write opacities, not 0 and 255", type=bool, default=False, metavar="BOOL")
@click.option("--cutouts", help="Write cut-outs too, the largest files", type=bool, default=True, metavar="BOOL")
@click.option("--min-confidence", help="Less goes to doubtful/", type=Number(0, 1), default=0, metavar="FRAC")
@click.option("--sharp", help="Correct masks by the pictures' colors", type=bool, default=True, metavar="BOOL")
@click.option("--margin", help="Border where objects are rare  [default: the model's]", type=Number(0, 0.5),
              metavar="FRAC")
@click.option("--flip", help="Average with the mirrored picture", type=bool, default=False, metavar="BOOL")
@click.option("--refine", help="Refine each picture's codes", type=Whole(min=0), default=0, metavar="STEPS")
@click.option("--prior", help="Distilled model that --refine keeps to", metavar="RUN")
@click.option("--posterior", help="Correct masks pixel by pixel (encoders)", type=bool, default=False, metavar="BOOL")
@click.option("--device", help="Where to compute", type=DEVICES, default="auto")
@click.option("--workers", help="Processes that decode and encode  [default: one per core]", type=Whole(0, 1024))
@click.option("--shard", help="Which of N calls this is, from 0 on  [default: as torchrun or Slurm says]",
              metavar="I/N")
@user_errors()
def segment(model: str, images: str, outdir: str, device: str, flip: bool, refine: int, posterior: bool,
            prior: str | None, sharp: bool, margin: float | None, workers: int | None, shard: str | None,
            **opts: Any) -> None:
    """Segment real pictures: masks, cut-outs, a contact sheet, and with an encoder the layers as well.

    Files go to masks/, cutouts/ (and backgrounds/, foregrounds/, reconstructions/) under the pictures' own names, at
    their own size; manifest.jsonl has coverage, reconstruction error and confidence (the IoU that the network expects).
    The same command goes on where it stopped. A picture that can't be read is named, and the exit code is 1.

    For many pictures: each archive of a pattern gets results and a manifest of its own; --format=tar writes shards in
    WebDataset's layout; --shard divides the work among calls, in the end with the same bytes as one call.

    Examples:

    \b
    python invert.py segment --model=runs/00001-distill --images=my-cars --outdir=my-masks --min-confidence=0.7
    python invert.py segment --model=runs/00002-encoder --images=car.jpg --outdir=my-car --refine=100

    \b
    # An encoder's layers, with masks that keep to the distilled model's.
    python invert.py segment --model=runs/00002-encoder --images=my-cars --outdir=my-layers --refine=60 \\
        --prior=runs/00001-distill

    \b
    # A quarter of many tar shards, to shards again; the other quarters elsewhere.
    python invert.py segment --model=runs/00001-distill --images='shards/*.tar' --outdir=masks --format=tar --shard=0/4
    """
    check_outside(outdir, "--images", images)
    part, reason = (Shard.parse(shard), "--shard") if shard is not None else Shard.of_environment()
    if part.total > 1:
        click.echo(f"Shard {part.number} of {part.total}, from 0 on, by {reason}", err=True)
    segmenter = Segmenter.load(model, use_own_gpu(device))
    refinement = Refinement(flip, refine, posterior, None if prior is None else Segmenter.load(prior, device), sharp,
                            margin)
    refinement.check(segmenter)
    with writing("--outdir", outdir):
        outcome = segment_files(segmenter, images, outdir, refinement=refinement, shard=part,
                                workers=usable_cores() if workers is None else workers, **opts)
    for problem in outcome.failed.values():
        click.echo(f"Error: {problem}", err=True)
    sheet = Path(outdir) / runs.CONTACT_SHEET
    noun = "picture" if outcome.done == 1 else "pictures"
    click.echo(f"{outcome.done} {noun} segmented, {outcome.skipped} were there already, {len(outcome.failed)} "
               f"failed{say_doubtful(outdir)}: {sheet if sheet.is_file() else outdir}", err=True)
    if (Path(outdir) / shard_manifest(part, done=True)).is_file():
        command = as_typed(shlex.join(["python", "invert.py", "merge", f"--outdir={outdir}"]))
        click.echo(f"When all shards are finished: {command}", err=True)
    sys.exit(1 if outcome.failed else 0)


@click.command(cls=CheckedCommand, short_help="What several calls of segment left in one folder")
@click.option("--outdir", help="Folder that the shards filled", required=True, metavar="DIR")
@user_errors()
def merge(outdir: str) -> None:
    """Join the manifests of all shards of a folder, and draw its contact sheet, as one call would have left them.

    Needed after segment --shard=I/N of a folder, zip or tar to files. Archives have manifests of their own.

    \b
    Example:
    python invert.py merge --outdir=my-masks
    """
    with writing("--outdir", outdir):
        num, missing = merge_shards(outdir)
    click.echo(f"{num} pictures: {Path(outdir) / runs.MANIFEST}", err=True)
    if not (Path(outdir) / runs.CONTACT_SHEET).is_file():
        click.echo("No contact sheet: the pictures are no longer where they were. Segment them again, without --shard, "
                   "and it is drawn", err=True)
    if missing:
        click.echo(f"Error: of {num + missing} pictures {missing} could not be segmented; segment without --shard says "
                   "why", err=True)
        sys.exit(1)
