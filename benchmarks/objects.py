"""Do several objects separate? Trains a judge that tells objects apart, then generators, and scores object by object.

Resumable: a finished judge and finished runs are kept.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.support.judged_runs import ASKED_FILE, check_same, write_asked
from benchmarks.support.object_scores import matched_iou, score_objects
from benchmarks.support.provenance import provenance
from benchmarks.support.shell import Shell, dry_run
from layered_plugin.command_line import Whole, user_errors
from layered_plugin.data.mask_files import read_pairs
from layered_plugin.data.pictures import to_float
from layered_plugin.errors import MaskError, PictureError
from layered_plugin.evaluation.judge import (
    center_crop,
    crop_side,
    judge_objects,
    load_judge,
    save_judge,
    train_judge,
)
from layered_plugin.files import write_json
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.model.unet import AnyUNet
from layered_plugin.report.reading import read_gan_run
from layered_plugin.runs import begun_runs, or_go_on
from layered_plugin.synthetic.occlusion import MAX_OBJECTS

SCORE_SEED = 1


def read_objects(option: str, pictures: str, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [N, 3, S, S] and what is visible of each of their objects, [N, K, S, S], 255 = object, both uint8.

    Raises:
        click.ClickException: A file can't be read, or no picture has two objects.
    """
    with user_errors({PictureError: option, MaskError: option}):
        img, label = read_pairs(pictures, labels)
    num_objects = int(label.max())
    if not 2 <= num_objects <= MAX_OBJECTS:
        raise click.ClickException(f"{option}: {labels}: labels go up to {num_objects}, not 2 to {MAX_OBJECTS}; make "
                                   "them with --labels and --objects of dataset_tool shapes or composites")
    return img, (label[:, None] == np.arange(1, num_objects + 1)[:, None, None]).astype(np.uint8) * 255


def prepare_judge(data: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], steps: int,
                  folder: Path) -> tuple[AnyUNet, dict[str, Any]]:
    """Train a judge and score it on real pictures, or take the finished one from the folder."""
    weights, record_file = folder / f"judge-{steps}.pt", folder / f"judge-{steps}.json"
    if not record_file.is_file():
        save_judge(train_judge(*data, steps=steps), weights, crop_side(data[0].shape[-1]))
    judge = load_judge(weights).unet
    if record_file.is_file():
        return judge, json.loads(record_file.read_text())
    side = crop_side(test[0].shape[-1])
    pred = judge_objects(judge, center_crop(to_float(torch.from_numpy(test[0])), side))
    target = center_crop(torch.from_numpy(test[1]), side) > 0
    ious = [matched_iou(ours, theirs) for ours, theirs in zip(pred, target, strict=True)]
    record = dict(weights=str(weights), steps=steps, test_num=len(ious), matched_iou=float(np.mean(ious)))
    write_json(record_file, record)
    return judge, record


def train_args(data: str, num_objects: int, options: Sequence[str], seed: int, folder: Path) -> list[str]:
    """Command of a new training."""
    return ["train_layered.py", f"--outdir={folder}", f"--data={data}", "--cfg=demo", f"--objects={num_objects}",
            f"--seed={seed}", *options]


def run_once(train: list[str], judge: AnyUNet, seed: int, num: int, folder: Path) -> dict[str, Any]:
    """Train a generator, or go on training it, score its last snapshot, and keep the result.

    Args:
        train: Result of ``train_args``.
        judge: Judge that tells objects apart.
        seed: That of the training.
        num: Scenes to score.
        folder: Of this run alone.
    """
    result_file = folder / "result.json"
    if result_file.is_file():
        return json.loads(result_file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    shell = Shell()
    try:
        shell.call(or_go_on(train), folder / "train.log")
    except KeyboardInterrupt:
        shell.stop()
        raise
    run_dir = begun_runs(folder)[-1]
    run = read_gan_run(run_dir)
    snapshot = load_snapshot(run_dir)
    result = dict(score_objects(snapshot["G_ema"], judge, num=num, seed=SCORE_SEED), train_seed=seed,
                  network=snapshot["path"], kimg=run.stats[-1]["Progress/kimg"],
                  train_minutes=run.seconds / 60,
                  train_command=shlex.join(["python", *train]))
    write_json(result_file, result)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per seed, and their mean and deviation."""
    lines = ["| seed | kimg | mean matched IoU | union IoU | all as one object | objects | judge's objects "
             "| coverage, back to front |",
             "|---|---|---|---|---|---|---|---|"]
    for row in results:
        lines.append(
            f"| {row['train_seed']} | {row['kimg']:.0f} | {row['matched_iou']:.3f} | {row['union_iou']:.3f} "
            f"| {row['one_mask_iou']:.3f} | {row['objects']:.2f} | {row['judge_objects']:.2f} "
            f"| {', '.join(f'{value:.2f}' for value in row['coverage'])} |")
    ious = [row["matched_iou"] for row in results]
    return "\n".join([*lines, f"mean matched IoU {np.mean(ious):.3f} +- {np.std(ious):.3f}"])


@click.command()
@click.option("--data", help="Training pictures", metavar="ZIP", required=True)
@click.option("--labels", help="Label pictures of --data", metavar="ZIP", required=True)
@click.option("--test-data", help="Pictures to score the judge on", metavar="ZIP", required=True)
@click.option("--test-labels", help="Label pictures of --test-data", metavar="ZIP", required=True)
@click.option("--seeds", help="Training seeds 0 to N - 1", metavar="N", type=Whole(1), default=1,
              show_default=True)
@click.option("--option", "options", help="Option of train_layered.py (repeatable)", metavar="OPTION", multiple=True)
@click.option("--judge-steps", help="Optimizer steps of the judge", metavar="INT", type=Whole(1),
              default=1500, show_default=True)
@click.option("--num", help="Generated scenes to score", metavar="INT", type=Whole(1), default=2000,
              show_default=True)
@click.option("--outdir", help="Where judge and runs go", metavar="DIR", default="runs/objects", show_default=True)
def main(data: str, labels: str, test_data: str, test_labels: str, seeds: int, options: tuple[str, ...],
         judge_steps: int, num: int, outdir: str) -> None:
    """Train generators of several objects with --cfg=demo, and score them object by object.

    The number of objects is that of the label pictures. JSON goes to stdout, the table to stderr. --seeds may
    change; for any other option choose another --outdir.

    \b
    Example:
    python -m benchmarks.objects --data=data/shapes2.zip --labels=data/shapes2-labels.zip \\
        --test-data=data/shapes2-test.zip --test-labels=data/shapes2-test-labels.zip --option=--mask-min=0.08 \\
        --option=--mask-overlap-weight=5
    """
    folder = Path(outdir)
    asked = [f"--data={data}", f"--labels={labels}", f"--test-data={test_data}", f"--test-labels={test_labels}",
             f"--judge-steps={judge_steps}", f"--num={num}", *options]
    check_same(folder, asked)
    real = read_objects("--data, --labels", data, labels)
    test = read_objects("--test-data, --test-labels", test_data, test_labels)
    folders = [folder / f"seed{seed}" for seed in range(seeds)]
    commands = [train_args(data, real[1].shape[1], options, seed, path) for seed, path in enumerate(folders)]
    if not (folder / ASKED_FILE).is_file():
        dry_run(commands[0])
        folder.mkdir(parents=True, exist_ok=True)
        write_asked(folder, asked)
    judge, judge_record = prepare_judge(real, test, judge_steps, folder)
    print(f"judge on real pictures: mean matched IoU {judge_record['matched_iou']:.3f}", file=sys.stderr)
    results = [run_once(command, judge, seed, num, path)
               for seed, (command, path) in enumerate(zip(commands, folders, strict=True))]
    print(table(results), file=sys.stderr)
    print(json.dumps(dict(judge=judge_record, results=results, **provenance("benchmarks.objects")), indent=2))


if __name__ == "__main__":
    main()
