"""Score a generator's masks against a judge's, as Table 1 of the paper does with Mask R-CNN.

Results go to standard output as JSON, everything else to standard error.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import legacy
import numpy as np
import torch

from layered_plugin import BASE
from layered_plugin.compose import composite
from layered_plugin.evaluation import full_mask_iou, iou
from layered_plugin.judge import Judge, judge_masks, load_judge
from layered_plugin.progress import progress


def newest_snapshot(path: str) -> Path:
    """The pickle itself, or the last network snapshot of a run folder.

    Raises:
        click.ClickException: There is none.
    """
    if Path(path).is_file():
        return Path(path)
    found = sorted(Path(path).glob("network-snapshot-*.pkl"))
    if not found:
        raise click.ClickException(f"--network: no such file, and no network-snapshot-*.pkl in it: {path}")
    return found[-1]


@torch.no_grad()
def score_generator(G_ema: torch.nn.Module, judge: Judge, num: int, seed: int, batch: int = 100) -> dict[str, Any]:
    """Compare the masks of generated scenes with what the judge sees in their unshifted composites.

    Args:
        G_ema: Layered generator in evaluation mode, unconditional.
        judge: Segmenter trained on true masks.
        num: Number of scenes.
        seed: Of the latents.
        batch: Scenes at a time.

    Returns:
        mean_iou over all scenes (judge and generator both empty = 1), detected = scenes in which the judge sees an
        object, mean_iou_detected over those (the paper's figure), reference_iou = that of the full-image mask there,
        coverage of the generator's and of the judge's masks. All masks binarized at 0.5.
    """
    z = torch.from_numpy(np.random.RandomState(seed).randn(num, G_ema.z_dim)).float()
    preds, targets = [], []
    parts = z.split(batch)
    for part in progress(parts, len(parts), "Scenes"):
        layers = G_ema(part, None, noise_mode="const", return_layers=True)
        preds.append(layers.mask[:, 0] > 0.5)
        targets.append(judge_masks(judge, composite(layers).clamp(-1, 1)))
    pred, target = torch.cat(preds), torch.cat(targets)
    scores, seen = iou(pred, target), target.flatten(1).any(dim=1)
    return dict(mean_iou=scores.mean().item(), mean_iou_detected=scores[seen].mean().item(), detected=int(seen.sum()),
                num=num, reference_iou=full_mask_iou(target[seen]) if seen.any() else float("nan"),
                coverage=pred.float().mean().item(), judge_coverage=target.float().mean().item())


@click.command()
@click.option("--network", help="Run folder or snapshot pickle", metavar="RUN|PKL", required=True)
@click.option("--judge", "judge_path", help="Judge of `benchmarks.judge`", metavar="PT", required=True)
@click.option("-n", "--num", help="Scenes", metavar="INT", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--seed", help="Seed of the latents", metavar="INT", type=click.IntRange(min=0), default=1,
              show_default=True)
def main(network: str, judge_path: str, num: int, seed: int) -> None:
    """Score the masks of generated scenes against those that a judge sees in the composites.

    \b
    Example:
    python -m benchmarks.generated_masks --network=runs/00000-shapes-demo --judge=data/judge-shapes.pt
    """
    snapshot = newest_snapshot(network)
    try:
        judge = load_judge(judge_path)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"--judge: {error}") from error
    with open(snapshot, "rb") as file:
        G_ema = legacy.load_network_pkl(file)["G_ema"]
    result = score_generator(G_ema, judge, num=num, seed=seed)
    print(json.dumps(dict(result, network=str(snapshot), judge=judge_path, seed=seed, base=BASE.name,
                          command=shlex.join(["python", "-m", "benchmarks.generated_masks", *sys.argv[1:]]))))


if __name__ == "__main__":
    main()
