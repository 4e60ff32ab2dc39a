"""Do masks emerge, and what makes them: settings x seeds, each trained and scored by a judge.

The first rows of the paper's Table 1 on data that a laptop can hold. Resumable: finished runs are kept.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from layered_plugin.checkpoint import atomic_write
from layered_plugin.presets import LAYERED

NUM_SCENES = 2000
DEMO = LAYERED["demo"]["options"]
PAPER = ["--mask-border-weight=0", "--mask-size-weight=2"]
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


def run_once(data: str, judge: str, setting: str, seed: int, kimg: float, outdir: str) -> dict[str, Any]:
    """Train one setting with one seed on one thread, score its last snapshot, keep the result.

    Raises:
        click.ClickException: The training or the scoring failed; the text is its last line.
    """
    folder = Path(outdir) / Path(data).stem / f"{setting}-kimg{kimg:g}-seed{seed}"
    result_file = folder / "result.json"
    if result_file.is_file():
        return json.loads(result_file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    train = [sys.executable, "train_layered.py", f"--outdir={folder}", f"--data={data}", "--cfg=demo",
             f"--kimg={kimg:g}", f"--seed={seed}", "--mask-min=0.2", *SETTINGS[setting]]
    call(train, folder / "train.log")
    run_dir = max(path for path in folder.iterdir() if path.is_dir())
    score = [sys.executable, "eval.py", "generated", f"--network={run_dir}", "--teacher=unet", f"--weights={judge}",
             f"--num={NUM_SCENES}", "--seed=1"]
    scores = flat_scores(json.loads(call(score, folder / "score.log")))
    stats = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    result = dict(scores, setting=setting, data=Path(data).name, train_seed=seed, kimg=kimg,
                  train_minutes=stats[-1]["Timing/total_sec"]["mean"] / 60,
                  train_command=shlex.join(["python", *train[1:]]))
    with atomic_write(result_file) as file:
        file.write(json.dumps(result, indent=2).encode())
    print(f"{setting} seed {seed}: IoU {result['mean_iou']:.3f}, mask {result['coverage']:.2f}", file=sys.stderr)
    return result


def flat_scores(record: dict[str, Any]) -> dict[str, Any]:
    """The entries of a record of `eval.py generated` that the table needs.

    `mean_iou` is over all scenes, `mean_iou_detected` and `reference_iou` over those in which the judge sees an object.
    """
    kept = {key: record[key] for key in ("num", "coverage", "network", "seed", "base", "command")}
    seen = record["detected"] or dict(iou=float("nan"), full_mask_iou=float("nan"))
    return dict(mean_iou=record["all"]["iou"], mean_iou_detected=seen["iou"], reference_iou=seen["full_mask_iou"],
                detected=record["num_detected"], judge_coverage=record["teacher_coverage"],
                judge=record["teacher"]["weights"], **kept)


def call(args: list[str], log: Path, threads: int = 1) -> str:
    """Run a command, its standard error into a file; the last line of its standard output.

    Raises:
        click.ClickException: It failed; the text is its last line.
    """
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    with log.open("w") as errors:
        done = subprocess.run(args, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
    if done.returncode != 0:
        raise click.ClickException(f"{shlex.join(args)} failed: {log.read_text().strip().splitlines()[-1:]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per setting, mean and deviation over seeds, then each seed."""
    lines = ["| setting | seeds | mean IoU | each seed | mask coverage | judge's coverage | full-image mask |",
             "|---|---|---|---|---|---|---|"]
    for setting in dict.fromkeys(result["setting"] for result in results):
        rows = [result for result in results if result["setting"] == setting]
        ious = [row["mean_iou"] for row in rows]
        spread = f" +- {np.std(ious):.3f}" if len(ious) > 1 else ""
        lines.append(
            f"| {setting} | {', '.join(str(row['train_seed']) for row in rows)} "
            f"| {np.mean(ious):.3f}{spread} | {', '.join(f'{value:.3f}' for value in ious)} "
            f"| {np.mean([row['coverage'] for row in rows]):.2f} "
            f"| {np.mean([row['judge_coverage'] for row in rows]):.2f} "
            f"| {np.mean([row['reference_iou'] for row in rows]):.3f} |")
    return "\n".join(lines)


@click.command()
@click.option("--data", help="Training pictures", metavar="ZIP", required=True)
@click.option("--judge", help="Judge of `benchmarks.judge`", metavar="PT", required=True)
@click.option("--settings", help="Which of: " + " ".join(SETTINGS), metavar="LIST", default="default",
              show_default=True)
@click.option("--seeds", help="Training seeds 0 to N - 1", metavar="N", type=click.IntRange(min=1), default=3,
              show_default=True)
@click.option("--kimg", help="Length of each run", metavar="KIMG", type=float, default=DEMO["kimg"], show_default=True)
@click.option("--jobs", help="Runs at a time, one thread each", metavar="INT", type=click.IntRange(min=1),
              default=os.cpu_count(), show_default=True)
@click.option("--outdir", help="Where the runs go", metavar="DIR", default="runs/emergence", show_default=True)
def main(data: str, judge: str, settings: str, seeds: int, kimg: float, jobs: int, outdir: str) -> None:
    """Train settings x seeds with --cfg=demo and score their masks; JSON on stdout, the table on stderr.

    \b
    Example:
    python -m benchmarks.emergence --data=data/plants-lit.zip --judge=data/judge-plants-lit.pt \\
        --settings=default,no-shift,no-jitter,no-shift-no-jitter --seeds=3
    """
    names = settings.split(",")
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        raise click.UsageError(f"--settings must be among {', '.join(SETTINGS)}, got {unknown[0]}")
    tasks = [(name, seed) for seed in range(seeds) for name in names]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda task: run_once(data, judge, *task, kimg, outdir), tasks))
    results.sort(key=lambda result: (names.index(result["setting"]), result["train_seed"]))
    record = dict(results=results, date=date.today().isoformat(), torch=torch.__version__, machine=platform.machine(),
                  cpu_capability=torch.backends.cpu.get_cpu_capability(), cores=os.cpu_count(),
                  command=shlex.join(["python", "-m", "benchmarks.emergence", *sys.argv[1:]]))
    print(table(results), file=sys.stderr)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
