"""Do masks emerge sooner in a generator that starts from an ordinary one (`--init-from`) than from scratch?

An ordinary generator is trained, then layers from it and layers from scratch; snapshots of both are scored afterwards
by a judge and against true outlines. Resumable: finished trainings and scores are kept.
"""

import json
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.support.judged_runs import SCENE_SEED, flat_scores
from benchmarks.support.provenance import provenance
from benchmarks.support.shell import Shell
from benchmarks.time_to_masks import check_files, snapshots, train_once
from layered_plugin.command_line import Number, Whole
from layered_plugin.files import write_json
from layered_plugin.progress import progress

MEASURES = ("iou", "coverage")
SHARE = 1 / 3  # Of the pictures from scratch that the start may need.
LEVELS, COVERAGE = (0.80, 0.85, 0.90, 0.92, 0.94), 0.70  # Of IoU, and the coverage that has to come with it.


def score(network: str, kept: Path, shell: Shell, num: int, judge: str, data: str, masks: str) -> dict[str, Any]:
    """Scores of a snapshot: `iou` of its masks with the judge's, `coverage` of true outlines by its own, as a share of
    what true ones reach among themselves; kept in a file, and not found twice."""
    wanted = dict(network=network, num=num, judge=judge, data=data, masks=masks)
    if kept.is_file():
        record = json.loads(kept.read_text())
        if record["asked"] == wanted:
            return record
    found = json.loads(shell.call(
        ["eval.py", "generated", f"--network={network}", "--teacher=unet", f"--weights={judge}", f"--num={num}",
         f"--seed={SCENE_SEED}", f"--real={data}", f"--real-masks={masks}"], kept.with_suffix(".log")))
    shapes = found["variety"]["shapes"]
    record = dict(iou=flat_scores(found)["mean_iou"], coverage=shapes["share"]["coverage"], shapes=shapes,
                  mask=found["coverage"], asked=wanted)
    write_json(kept, record)
    return record


def first_with(points: list[dict[str, Any]], iou: float, coverage: float) -> float | None:
    """Kimg of the first snapshot with at least both; None if there is none."""
    return next((point["kimg"] for point in points if point["iou"] >= iou and point["coverage"] >= coverage), None)


def compare(scratch: list[dict[str, Any]], init: list[dict[str, Any]]) -> dict[str, Any]:
    """When the start reaches what the run from scratch has at its end.

    Args:
        scratch: Snapshots in order: `kimg`, `iou`, `coverage`.
        init: The same of the run that starts from an ordinary generator.

    Returns:
        `goal`: the last values from scratch; `kimg`: of the first snapshot of `init` with both at least as large, None
        if there is none; `share` of the pictures from scratch; `passed`: is it at most a third? `levels`: of the first
        snapshots of both with each of `LEVELS` and a coverage of `COVERAGE`, [IoU, kimg of init, kimg from scratch].
    """
    goal = {name: scratch[-1][name] for name in MEASURES}
    first = first_with(init, **goal)
    share = None if first is None else first / scratch[-1]["kimg"]
    levels = [[iou, first_with(init, iou, COVERAGE), first_with(scratch, iou, COVERAGE)] for iou in LEVELS]
    return dict(goal=goal, kimg=first, share=share, passed=share is not None and share <= SHARE + 1e-6, levels=levels)


def table(curves: dict[str, dict[str, list[dict[str, Any]]]], outcomes: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per seed, start and snapshot, then what came of it."""
    lines = ["| seed | start | kimg | judge IoU | coverage | mean mask |", "|---|---|---|---|---|---|"]
    for seed, starts in curves.items():
        for start, points in starts.items():
            lines += [f"| {seed} | {start} | {point['kimg']:.1f} | {point['iou']:.3f} | {point['coverage']:.3f} "
                      f"| {point['mask']:.2f} |" for point in points]
    for seed, outcome in outcomes.items():
        reached = (f"at {outcome['kimg']:.1f} kimg, {outcome['share']:.2f} of the pictures from scratch"
                   if outcome["kimg"] is not None else "not reached")
        lines.append(f"\nSeed {seed}: IoU {outcome['goal']['iou']:.3f} and coverage "
                     f"{outcome['goal']['coverage']:.3f} of the run from scratch: {reached}")
        lines += [f"IoU {iou:.2f} with coverage {COVERAGE:.2f}: {_kimg(init)} from the ordinary generator, "
                  f"{_kimg(scratch)} from scratch" for iou, init, scratch in outcome["levels"]]
    return "\n".join(lines)


def _kimg(kimg: float | None) -> str:
    return "never" if kimg is None else f"{kimg:.1f} kimg"


@click.command(context_settings=dict(show_default=True))
@click.option("--data", help="Training pictures", metavar="ZIP", required=True)
@click.option("--masks", help="Their true masks, for scores alone", metavar="ZIP", required=True)
@click.option("--judge", help="Judge of `eval.py judge`", metavar="PT", required=True)
@click.option("--plain-kimg", help="Length of the ordinary training", type=Number(0, min_open=True),
              default=40, metavar="KIMG")
@click.option("--kimg", help="Length from scratch; the start has a third", type=Number(0, min_open=True),
              default=24, metavar="KIMG")
@click.option("--seeds", help="Training seeds 0 to N - 1", type=Whole(1), default=1, metavar="N")
@click.option("--cbase", help="Channels x resolution", type=Whole(1), default=512, metavar="INT")
@click.option("--cmax", help="Most channels of a layer", type=Whole(1), default=32, metavar="INT")
@click.option("--num", help="Scenes per snapshot", type=Whole(2), default=2000, metavar="INT")
@click.option("--option", "options", help="Further option of train_layered.py", metavar="--NAME=VALUE", multiple=True)
@click.option("--init-option", "init_options", help="Further option of the start alone", metavar="--NAME=VALUE",
              multiple=True)
@click.option("--outdir", help="Where the runs go", metavar="DIR", default="runs/init-from")
def main(data: str, masks: str, judge: str, plain_kimg: float, kimg: float, seeds: int, cbase: int, cmax: int, num: int,
         options: tuple[str, ...], init_options: tuple[str, ...], outdir: str) -> None:
    """Train with --cfg=demo from an ordinary generator and from scratch; JSON on stdout, the table on stderr.

    The start is scored at each twelfth of the length from scratch, up to a third of it, as the bar has it.

    \b
    Example:
    python -m benchmarks.init_from --data=data/plants-lit.zip --masks=data/plants-lit-masks.zip \\
        --judge=data/judge-plants-lit.pt
    """
    check_files(data=data, masks=masks, judge=judge)
    shell, outcomes = Shell(1), {}
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    try:
        for seed in range(seeds):
            folder = Path(outdir) / f"{Path(data).stem}-plain{plain_kimg:g}-kimg{kimg:g}-seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            pkl = folder / "plain.pkl"
            if not pkl.is_file():
                shell.call(["-m", "benchmarks.support.plain_training", f"--data={data}", f"--pkl={pkl}",
                            f"--kimg={plain_kimg:g}", f"--seed={seed}", f"--cbase={cbase}", f"--cmax={cmax}"],
                           folder / "plain.log")
            sizes = [f"--cbase={cbase}", f"--cmax={cmax}"]
            ways = {"init": [f"--kimg={kimg * SHARE:g}", f"--init-from={pkl}", *init_options],
                    "scratch": [f"--kimg={kimg:g}", *sizes]}
            curves[str(seed)] = {}
            for way, own in ways.items():
                command = ["train_layered.py", f"--outdir={folder / way}", f"--data={data}", "--cfg=demo",
                           f"--seed={seed}", f"--tick={kimg / 12:g}", "--snap=1", *options, *own]
                taken = snapshots(train_once(command, folder / way, shell))
                curves[str(seed)][way] = [
                    dict(point, **score(point["network"], folder / way / f"score{point['kimg']:06.1f}.json", shell,
                                        num, judge, data, masks))
                    for point in progress(taken, len(taken), f"{way} seed {seed}: snapshots scored")]
            outcomes[str(seed)] = compare(curves[str(seed)]["scratch"], curves[str(seed)]["init"])
    finally:
        shell.stop()  # Of Ctrl-C the command that runs knows nothing.
    print(table(curves, outcomes), file=sys.stderr)
    print(json.dumps(dict(outcomes=outcomes, curves=curves, plain_kimg=plain_kimg, kimg=kimg, cbase=cbase, cmax=cmax,
                          num=num, options=options, init_options=init_options, data=data,
                          **provenance("benchmarks.init_from")), indent=2))


if __name__ == "__main__":
    main()
