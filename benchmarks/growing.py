"""Do masks emerge sooner when the networks grow? Both ways, scored by a judge at the same minutes of CPU.

Section 4 of the paper trains progressively; here against full resolution. Resumable: finished runs are kept.
"""

import json
import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.support.judged_runs import NUM_SCENES, SCENE_SEED, flat_scores
from benchmarks.support.provenance import provenance
from benchmarks.support.shell import Shell
from layered_plugin.command_line import Number, Whole
from layered_plugin.files import atomic_write, write_json
from layered_plugin.model.snapshots import snapshot_path
from layered_plugin.runs import STATS_FILE

WAYS = ("full", "grow")


def train(shell: Shell, way: str, seed: int, data: str, kimg: float, schedule: str, options: tuple[str, ...],
          outdir: str) -> Path:
    """Train one way with one seed on one thread, or find it finished.

    Returns:
        Its run folder.

    Raises:
        click.ClickException: The training failed; the text is its last line.
    """
    folder = Path(outdir) / Path(data).stem / f"{way}-seed{seed}"
    finished = folder / "finished.json"
    if not finished.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        length = [f"--grow-schedule={schedule}"] if way == "grow" else ["--no-grow", f"--kimg={kimg:g}"]
        command = ["train_layered.py", f"--outdir={folder}", f"--data={data}", "--cfg=demo",
                   f"--resolution={_resolution(schedule)}", f"--seed={seed}", "--snap=1", *options, *length]
        shell.call(command, folder / "train.log")
        run_dir = max(path for path in folder.iterdir() if path.is_dir())
        with atomic_write(finished) as file:
            file.write(json.dumps(dict(run_dir=str(run_dir), command=shlex.join(["python", *command]))).encode())
        print(f"{way} seed {seed}: trained in {curve(run_dir)[-1]['cpu_minutes']:.1f} CPU minutes", file=sys.stderr)
    return Path(json.loads(finished.read_text())["run_dir"])


def curve(run_dir: Path) -> list[dict[str, Any]]:
    """Snapshots of a run in order: kimg, cpu_minutes (of the process, all threads), resolution, network (file)."""
    points = {}
    for line in (run_dir / STATS_FILE).read_text().splitlines():
        stats = json.loads(line)
        kimg = stats["Progress/kimg"]["mean"]
        network = snapshot_path(run_dir, round(kimg * 1000))
        if network.is_file():
            points[network] = dict(kimg=kimg, cpu_minutes=stats["Resources/cpu_sec"]["mean"] / 60,
                                   resolution=round(stats["Progress/resolution"]["mean"]), network=str(network))
    return list(points.values())


def newest(points: list[dict[str, Any]], minutes: float) -> dict[str, Any] | None:
    """Last snapshot that so many CPU minutes had brought, None before the first."""
    return next((point for point in reversed(points) if point["cpu_minutes"] <= minutes), None)


def score(shell: Shell, point: dict[str, Any], judge: str, num: int) -> dict[str, Any]:
    """Add the judge's scores to a snapshot, at the judge's resolution whatever its own; kept beside it."""
    network = Path(point["network"])
    file = network.with_suffix(".scores.json")
    if not file.is_file():
        command = ["eval.py", "generated", f"--network={network}", "--teacher=unet", f"--weights={judge}",
                   f"--num={num}", f"--seed={SCENE_SEED}"]
        scores = flat_scores(json.loads(shell.call(command, network.with_suffix(".log"))))
        write_json(file, scores)
    return dict(json.loads(file.read_text()), **point)


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per minute mark and way; mean IoU over seeds, kimg shown and resolution reached by then."""
    lines = ["| CPU minutes | way | seeds | mean IoU | each seed | kimg | resolution |",
             "|---|---|---|---|---|---|---|"]
    for minutes in sorted({result["minutes"] for result in results}):
        for way in WAYS:
            rows = [row for row in results if (row["minutes"], row["way"]) == (minutes, way)]
            ious = [row["mean_iou"] for row in rows]
            spread = f" +- {np.std(ious):.3f}" if len(ious) > 1 else ""
            mean = f"{np.mean(ious):.3f}{spread}" if rows else "no snapshot yet"
            lines.append(f"| {minutes:.1f} | {way} | {', '.join(str(row['train_seed']) for row in rows)} | {mean} "
                         f"| {', '.join(f'{iou:.3f}' for iou in ious)} "
                         f"| {', '.join(format(row['kimg'], '.1f') for row in rows)} "
                         f"| {', '.join(str(row['resolution']) for row in rows)} |")
    return "\n".join(lines)


def _resolution(schedule: str) -> int:
    try:
        return int(schedule.split(",")[-1].split(":")[0])
    except ValueError:
        raise click.UsageError(f"--schedule must be RES:KIMG:BATCH[:LR],..., got {schedule}") from None


@click.command()
@click.option("--data", help="Training pictures", metavar="ZIP", required=True)
@click.option("--judge", help="Judge of `eval.py judge`", metavar="PT", required=True)
@click.option("--schedule", help="Of the growing run", metavar="RES:KIMG:BATCH[:LR],...",
              default="8:4:32,16:8:32,32:24:32", show_default=True)
@click.option("--kimg", help="Length of the full-resolution run", metavar="KIMG", type=Number(0, min_open=True),
              default=24, show_default=True)
@click.option("--seeds", help="Training seeds 0 to N - 1", metavar="N", type=Whole(1), default=3,
              show_default=True)
@click.option("--marks", help="Score so many times, evenly spaced", metavar="INT", type=Whole(1),
              default=6, show_default=True)
@click.option("--num", help="Scenes per score", metavar="INT", type=Whole(1),
              default=NUM_SCENES, show_default=True)
@click.option("--option", "options", help="Further option of both; repeatable", metavar="--NAME=VALUE", multiple=True)
@click.option("--jobs", help="Runs at a time, one thread each", metavar="INT", type=Whole(1),
              default=os.cpu_count(), show_default=True)
@click.option("--outdir", help="Where the runs go", metavar="DIR", default="runs/growing", show_default=True)
def main(data: str, judge: str, schedule: str, kimg: float, seeds: int, marks: int, num: int,
         options: tuple[str, ...], jobs: int, outdir: str) -> None:
    """Train with --cfg=demo at full resolution and growing; JSON on stdout, the table on stderr.

    The last mark is the CPU time of the shortest run, the others divide it: choose --schedule and --kimg for about the
    same time. At each mark a run's newest snapshot counts; one of a lower resolution is scored enlarged.

    \b
    Example:
    python -m benchmarks.growing --data=data/plants.zip --judge=data/judge-plants.pt --seeds=3
    """
    _resolution(schedule)  # What is wrong with it is told before the work.
    shell = Shell()
    tasks = [(way, seed) for seed in range(seeds) for way in WAYS]
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(lambda task: train(shell, task[0], task[1], data, kimg, schedule, options, outdir), tasks))
        curves = [curve(run) for run in runs]
        end = min(points[-1]["cpu_minutes"] for points in curves)
        wanted = [(way, seed, mark, point) for mark in np.linspace(end / marks, end, marks).tolist()
                  for (way, seed), points in zip(tasks, curves, strict=True) if (point := newest(points, mark))]
        results = list(pool.map(lambda one: dict(score(shell, one[3], judge, num), way=one[0],
                                                 train_seed=one[1], minutes=one[2]), wanted))
    record = dict(results=results, runs=[json.loads((run.parent / "finished.json").read_text()) for run in runs],
                  total_cpu_minutes=[points[-1]["cpu_minutes"] for points in curves],
                  **provenance("benchmarks.growing"))
    print(table(results), file=sys.stderr)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
