"""Do masks emerge, and what makes them: settings x seeds, each trained and scored by a judge.

The first rows of the paper's Table 1 on data that a laptop can hold. Resumable: finished runs are kept,
an unfinished one is resumed.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.support.judged_runs import JudgedRun, judged_results
from benchmarks.support.provenance import provenance
from layered_plugin.command_line import Number, Whole
from layered_plugin.training.presets import LAYERED

DEMO = LAYERED["demo"]
PAPER = ["--mask-border-weight=0", "--mask-center-weight=0", "--mask-size-weight=2"]
SETTINGS = {
    "default": [],
    "no-shift": ["--shift=0"],
    "no-jitter": ["--bg-jitter=0"],
    "no-shift-no-jitter": ["--shift=0", "--bg-jitter=0"],
    "bf16": ["--precision=bf16"],
    "paper": PAPER,
    "paper-no-shift": [*PAPER, "--shift=0"],
    "paper-no-jitter": [*PAPER, "--bg-jitter=0"],
    "paper-no-shift-no-jitter": [*PAPER, "--shift=0", "--bg-jitter=0"],
}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per setting, mean and deviation over seeds, then each seed; outlines as shares of true ones."""
    lines = ["| setting | seeds | mean IoU | each seed | coverage | variation | mask area | judge's area "
             "| full-image mask |", "|---|---|---|---|---|---|---|---|---|"]
    for setting in dict.fromkeys(result["setting"] for result in results):
        rows = [result for result in results if result["setting"] == setting]
        ious = [row["mean_iou"] for row in rows]
        full = [row["reference_iou"] for row in rows if row["reference_iou"] is not None]
        spread = f" +- {np.std(ious):.3f}" if len(ious) > 1 else ""
        lines.append(
            f"| {setting} | {', '.join(str(row['train_seed']) for row in rows)} "
            f"| {np.mean(ious):.3f}{spread} | {', '.join(f'{value:.3f}' for value in ious)} "
            f"| {np.mean([row['shapes']['coverage'] for row in rows]):.3f} "
            f"| {np.mean([row['shapes']['variation'] for row in rows]):.2f} "
            f"| {np.mean([row['coverage'] for row in rows]):.2f} "
            f"| {np.mean([row['judge_coverage'] for row in rows]):.2f} "
            f"| {f'{np.mean(full):.3f}' if full else '-'} |")
    return "\n".join(lines)


@click.command()
@click.option("--data", help="Training pictures", metavar="ZIP", required=True)
@click.option("--masks", help="Their true masks, for scores alone", metavar="ZIP", required=True)
@click.option("--judge", help="Judge of `eval.py judge`", metavar="PT", required=True)
@click.option("--settings", help="Which of: " + " ".join(SETTINGS), metavar="LIST", default="default",
              show_default=True)
@click.option("--seeds", help="Training seeds 0 to N - 1", metavar="N", type=Whole(1), default=3,
              show_default=True)
@click.option("--kimg", help="Length of each run", metavar="KIMG", type=Number(0, min_open=True),
              default=DEMO["kimg"], show_default=True)
@click.option("--jobs", help="Runs at a time, one thread each", metavar="INT", type=Whole(1),
              default=os.cpu_count(), show_default=True)
@click.option("--outdir", help="Where the runs go", metavar="DIR", default="runs/emergence", show_default=True)
def main(data: str, masks: str, judge: str, settings: str, seeds: int, kimg: float, jobs: int, outdir: str) -> None:
    """Train settings x seeds with --cfg=demo and score their masks; JSON on stdout, the table on stderr.

    \b
    Example:
    python -m benchmarks.emergence --data=data/plants-lit.zip --masks=data/plants-lit-masks.zip \\
        --judge=data/judge-plants-lit.pt --settings=default,no-shift,no-jitter,no-shift-no-jitter --seeds=3
    """
    names = settings.split(",")
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        raise click.UsageError(f"--settings must be among {', '.join(SETTINGS)}, got {unknown[0]}")
    runs = [JudgedRun(name, seed, data, kimg, ("--mask-min=0.2", *SETTINGS[name]), judge, masks,
                      Path(outdir) / Path(data).stem / f"{name}-kimg{kimg:g}-seed{seed}")
            for seed in range(seeds) for name in names]
    results = sorted(judged_results(runs, jobs),
                     key=lambda result: (names.index(result["setting"]), result["train_seed"]))
    record = dict(results=results, **provenance("benchmarks.emergence"))
    print(table(results), file=sys.stderr)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
