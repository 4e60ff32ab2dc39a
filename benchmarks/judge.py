"""Train a judge on a data set with true masks and score it on another.

Results go to standard output as JSON, everything else to standard error.
"""

import json
import shlex
import sys
import time

import click
import numpy as np
import torch

from layered_plugin.data.picture_zip import read_pairs
from layered_plugin.data.pictures import to_float
from layered_plugin.evaluation.judge import judge_masks, save_judge, train_judge
from layered_plugin.evaluation.metrics import mask_scores
from layered_plugin.segmentation.augment import center_crop, crop_side


def _read(option: str, pictures: str, masks: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        return read_pairs(pictures, masks)
    except ValueError as error:
        raise click.ClickException(f"{option}: {error}") from error


@click.command()
@click.option("--data", help="Pictures to train on", metavar="ZIP", required=True)
@click.option("--masks", help="True masks of --data", metavar="ZIP", required=True)
@click.option("--test-data", help="Pictures to score on", metavar="ZIP", required=True)
@click.option("--test-masks", help="True masks of --test-data", metavar="ZIP", required=True)
@click.option("--dest", help="File for the judge", metavar="PT", required=True)
@click.option("--steps", help="Optimizer steps", metavar="INT", type=click.IntRange(min=1), default=1200,
              show_default=True)
@click.option("--batch", help="Pictures a step", metavar="INT", type=click.IntRange(min=1), default=32,
              show_default=True)
@click.option("--seed", help="Random seed", metavar="INT", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", help="Where to train", metavar="DEVICE", default="cpu", show_default=True)
def main(
    data: str, masks: str, test_data: str, test_masks: str, dest: str, steps: int, batch: int, seed: int, device: str
) -> None:
    """Train a judge: a U-Net that finds the object, learnt from true masks.

    \b
    Example:
    python -m benchmarks.judge --data=data/shapes.zip --masks=data/shapes-masks.zip \\
        --test-data=data/shapes-test.zip --test-masks=data/shapes-test-masks.zip --dest=data/judge-shapes.pt
    """
    try:
        torch.device(device)
    except RuntimeError as error:
        raise click.UsageError(f"--device must be a PyTorch device such as cpu or cuda, got {device}") from error
    pictures, truth = _read("--data, --masks", data, masks)
    test_pictures, test_truth = _read("--test-data, --test-masks", test_data, test_masks)

    start = time.monotonic()
    judge = train_judge(pictures, truth, steps=steps, batch=batch, seed=seed, device=device)
    seconds = time.monotonic() - start
    save_judge(judge, dest)

    # Half covered counts as object.
    side = crop_side(test_pictures.shape[-1])
    pred = judge_masks(judge, center_crop(to_float(torch.from_numpy(test_pictures)), side)).cpu()
    target = center_crop(torch.from_numpy(test_truth), side) >= 128
    scores = mask_scores(pred, target)
    scores = {name: value if isinstance(value, bool) else round(value, 4) for name, value in scores.items()}
    print(json.dumps({
        "judge": dest, "data": data, "test_data": test_data, "test_num": len(test_pictures), "size_px": side,
        "steps": steps, "batch": batch, "seed": seed, "train_seconds": round(seconds, 1), **scores,
        "command": shlex.join(["python", "-m", "benchmarks.judge", *sys.argv[1:]]),
    }))


if __name__ == "__main__":
    main()
