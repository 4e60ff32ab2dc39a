"""Minutes of training until masks are good: snapshots on the way are scored afterwards, not to slow the training.

Resumable: finished trainings and scores are kept.
"""

import json
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.emergence import DEMO
from benchmarks.support.judged_runs import SCENE_SEED, flat_scores
from benchmarks.support.provenance import provenance
from benchmarks.support.shell import Shell
from layered_plugin.command_line import Number, Whole
from layered_plugin.files import write_json
from layered_plugin.model.snapshots import snapshot_path
from layered_plugin.progress import progress
from layered_plugin.runs import STATS_FILE

THRESHOLDS = (0.5, 0.7, 0.8)


def train_once(command: list[str], folder: Path, shell: Shell) -> Path:
    """Train into a folder, or find the training finished there; its run folder.

    Raises:
        click.ClickException: The training failed, or the folder holds one of other options.
    """
    finished = folder / "trained.json"
    if finished.is_file():
        record = json.loads(finished.read_text())
        if record["command"] != command or record["threads"] != shell.threads:
            raise click.ClickException(f"--outdir: {folder} holds a training of other options "
                                       f"({shlex.join(record['command'])}, {record['threads']} threads): give another")
        return Path(record["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    shell.call(command, folder / "train.log", _say_ticks)
    run_dir = max(path for path in folder.glob("0*") if (path / STATS_FILE).is_file())  # After a broken-off one.
    _write(finished, dict(command=command, threads=shell.threads, run_dir=str(run_dir)))
    return run_dir


def _say_ticks(line: str) -> None:
    if line.startswith("tick "):
        print(line, file=sys.stderr, flush=True)


def _write(path: Path, record: dict[str, Any]) -> None:
    write_json(path, record)


def snapshots(run_dir: Path) -> list[dict[str, Any]]:
    """The snapshots of a run but for the first, which is untrained.

    Returns:
        For each: `network`; `kimg`; `minutes` = start-up and training without the writing of snapshots;
        `minutes_with_snapshots` = all that had passed since the start.
    """
    rows = [json.loads(line) for line in (run_dir / STATS_FILE).read_text().splitlines()]
    found = {}
    seconds = rows[0]["Timing/maintenance_sec"]["mean"]  # Before the first tick: the start-up.
    for row in rows:
        seconds += row["Timing/sec_per_tick"]["mean"]
        kimg = row["Progress/kimg"]["mean"]
        network = snapshot_path(run_dir, round(kimg * 1000))
        if network.is_file() and row["Progress/tick"]["mean"] > 0:
            found[network.name] = dict(network=str(network), kimg=kimg, minutes=seconds / 60,
                                       minutes_with_snapshots=row["Timing/total_sec"]["mean"] / 60)
    return list(found.values())


def judge_snapshot(snapshot: dict[str, Any], folder: Path, shell: Shell, judge: str, num: int) -> dict[str, Any]:
    """The snapshot with the `iou` of its generated masks with the judge's."""
    name = f"judge-{Path(snapshot['network']).stem}"
    record = json.loads(shell.call(
        ["eval.py", "generated", f"--network={snapshot['network']}", "--teacher=unet", f"--weights={judge}",
         f"--num={num}", f"--seed={SCENE_SEED}"], folder / f"{name}.log"))
    return dict(snapshot, iou=flat_scores(record)["mean_iou"])


def distil_snapshot(snapshot: dict[str, Any], folder: Path, shell: Shell, data: str, test_data: str,
                    test_masks: str) -> dict[str, Any]:
    """The snapshot with the `iou` of a distilled segmenter on real pictures; `minutes` include the distillation."""
    name = f"distilled-{Path(snapshot['network']).stem}"
    start = time.perf_counter()
    model = shell.call(["invert.py", "distill", f"--network={snapshot['network']}", f"--data={data}",
                        f"--outdir={folder / name}"], folder / f"{name}.log")
    minutes = (time.perf_counter() - start) / 60
    record = json.loads(shell.call(["eval.py", "real", f"--model={model}", f"--data={test_data}",
                                    f"--masks={test_masks}", "--baselines=none"], folder / f"{name}-eval.log"))
    return dict(snapshot, iou=record["models"][0]["all"]["iou"], distill_minutes=minutes,
                **{key: snapshot[key] + minutes for key in ("minutes", "minutes_with_snapshots")})


def score(snapshot: dict[str, Any], folder: Path, shell: Shell, metric: str, **how: Any) -> dict[str, Any]:
    """The snapshot with its `iou`, and how it was found; kept in the folder, and not found twice."""
    kept = folder / f"{metric}-{Path(snapshot['network']).stem}.json"
    wanted = dict(how, metric=metric)
    if kept.is_file():
        record = json.loads(kept.read_text())
        if record["scored"] == wanted:
            return record
    function = judge_snapshot if metric == "judge" else distil_snapshot
    record = dict(function(snapshot, folder, shell, **how), scored=wanted)
    _write(kept, record)
    return record


def first_passing(curve: Sequence[dict[str, Any]], threshold: float) -> dict[str, Any] | None:
    """The first snapshot that is at least as good as the threshold; None if there is none."""
    return next((point for point in curve if point["iou"] >= threshold), None)


def minutes_to_masks(curves: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """For each threshold the minutes of each seed and their median; None = not reached."""
    rows = []
    for threshold in THRESHOLDS:
        passing = {seed: first_passing(curve, threshold) for seed, curve in curves.items()}
        minutes = {seed: point["minutes"] if point else None for seed, point in passing.items()}
        median = statistics.median(math.inf if value is None else value for value in minutes.values())
        rows.append(dict(threshold=threshold, minutes=minutes, median=median if math.isfinite(median) else None,
                         kimg={seed: point["kimg"] if point else None for seed, point in passing.items()}))
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row per threshold."""
    def show(value: float | None) -> str:
        return "not reached" if value is None else f"{value:.1f}"

    lines = ["| mean IoU | minutes, median | each seed | kimg of each seed |", "|---|---|---|---|"]
    lines += [f"| {row['threshold']} | {show(row['median'])} | {', '.join(map(show, row['minutes'].values()))} "
              f"| {', '.join(map(show, row['kimg'].values()))} |" for row in rows]
    return "\n".join(lines)


def check_files(**files: str | None) -> None:
    """Raise click.UsageError for an option that the metric needs and does not have, or whose file is missing."""
    for name, path in files.items():
        option = f"--{name.replace('_', '-')}"
        if path is None:
            raise click.UsageError(f"{option} is needed for this --metric (docs/data.md)")
        if not Path(path).exists():
            raise click.UsageError(f"{option}: no such file: {path}")


@click.command()
@click.option("--data", help="Training pictures", metavar="ZIP", required=True)
@click.option("--metric", help="Masks of generated scenes, or of real ones", type=click.Choice(["judge", "distilled"]),
              default="judge", show_default=True)
@click.option("--judge", help="Judge of `eval.py judge`", metavar="PT")
@click.option("--num", help="Generated scenes per snapshot", metavar="INT", type=Whole(1), default=1000,
              show_default=True)
@click.option("--test-data", help="Real pictures for `distilled`", metavar="ZIP")
@click.option("--test-masks", help="Their true masks", metavar="ZIP")
@click.option("--seeds", help="Training seeds 0 to N - 1", metavar="N", type=Whole(1), default=3,
              show_default=True)
@click.option("--kimg", help="Length of each training", metavar="KIMG", type=Number(0, min_open=True),
              default=DEMO["kimg"], show_default=True)
@click.option("--tick", help="Between snapshots", metavar="KIMG", type=Number(1),
              default=1, show_default=True)
@click.option("--option", "options", help="Further option of train_layered.py", metavar="--NAME=VALUE", multiple=True)
@click.option("--threads", help="Threads of training and scoring", metavar="INT", type=Whole(1),
              default=os.cpu_count(), show_default=True)
@click.option("--outdir", help="Where the runs go", metavar="DIR", default="runs/time-to-masks", show_default=True)
def main(data: str, metric: str, judge: str | None, num: int, test_data: str | None, test_masks: str | None,
         seeds: int, kimg: float, tick: float, options: tuple[str, ...], threads: int, outdir: str) -> None:
    """Train with --cfg=demo and find when masks pass an IoU of 0.5, 0.7, 0.8; JSON on stdout, the table on stderr.

    `judge` scores masks of generated scenes, `distilled` those of real pictures, found by a segmenter distilled from
    the snapshot, whose training counts too. Minutes begin where the training loop does: they include reading the
    data and all training, but not the writing of the many snapshots.

    \b
    Examples:
    python -m benchmarks.time_to_masks --data=data/plants-lit.zip --judge=data/judge-plants-lit.pt
    python -m benchmarks.time_to_masks --data=data/plants-lit.zip --metric=distilled --tick=4 \\
        --test-data=data/plants-lit-test.zip --test-masks=data/plants-lit-test-masks.zip
    """
    files = dict(judge=judge) if metric == "judge" else dict(data=data, test_data=test_data, test_masks=test_masks)
    check_files(**dict(files, data=data))
    how = dict(files, num=num) if metric == "judge" else files
    curves, shell = {}, Shell(threads)
    try:
        for seed in range(seeds):
            folder = Path(outdir) / Path(data).stem / f"kimg{kimg:g}-tick{tick:g}-seed{seed}"
            command = ["train_layered.py", f"--outdir={folder}", f"--data={data}", "--cfg=demo", f"--kimg={kimg:g}",
                       f"--tick={tick:g}", "--snap=1", f"--seed={seed}", *options]
            print(f"Seed {seed}", file=sys.stderr, flush=True)
            taken = snapshots(train_once(command, folder, shell))
            curves[seed] = [score(snapshot, folder, shell, metric, **how)
                            for snapshot in progress(taken, len(taken), "Snapshots scored")]
    finally:
        shell.stop()  # Of Ctrl-C the command that runs knows nothing.
    rows = minutes_to_masks(curves)
    print(table(rows), file=sys.stderr)
    print(json.dumps(dict(
        thresholds=rows, curves=curves, metric=metric, data=data, kimg=kimg, tick=tick, options=options,
        threads=threads, **provenance("benchmarks.time_to_masks")), indent=2))


if __name__ == "__main__":
    main()
