"""What generators draw behind their objects, beside the true grounds of a composed data set.

A composite hides it, so no score of pictures or masks sees it. Compared are pixels at the same place of the picture:
the background of scenes in which the mask hides it against that of scenes in which it is in sight.
"""

import json
import sys
from pathlib import PurePosixPath

import click
import torch

from benchmarks.support.provenance import provenance
from layered_plugin.command_line import SEED, Whole, user_errors
from layered_plugin.data.mask_files import MaskFiles
from layered_plugin.data.pictures import PictureSource, to_uint8
from layered_plugin.errors import CheckpointError, MaskError, PictureError
from layered_plugin.evaluation.variety import real_masks, real_pictures
from layered_plugin.model.layers import union_mask
from layered_plugin.model.scenes import draw_scenes
from layered_plugin.model.snapshots import load_snapshot


def hidden_less_seen(grounds: torch.Tensor, masks: torch.Tensor) -> float:
    """How much lighter grounds are where the object hides them than at the same pixel where they are in sight.

    Args:
        grounds: Backgrounds of N scenes, [N, C, H, W], any number type, in levels of 0 to 255.
        masks: Of their objects, [N, H, W]; from 0.5 on a pixel is hidden.

    Returns:
        Mean of the hidden less mean of those in sight, in levels. Pixels count by h s / (h + s), h scenes hiding and s
        showing them, as the inverse variance of the difference of two means; those always hidden or shown do not.
        NaN if there are no others.
    """
    hides = (masks >= 0.5).double()[:, None]
    hidden, seen = hides.sum(dim=0), (1 - hides).sum(dim=0)  # [1, H, W]
    levels = grounds.double()
    step = (levels * hides).sum(dim=0) / hidden.clamp(min=1) - (levels * (1 - hides)).sum(dim=0) / seen.clamp(min=1)
    weight = (hidden * seen / len(masks)).expand_as(step)
    return float((step * weight).sum() / weight.sum())


def contrast_ratio(grounds: torch.Tensor, masks: torch.Tensor) -> float:
    """How far grounds stand out behind their own objects, beside behind those of other scenes.

    Args:
        grounds, masks: As for ``hidden_less_seen``.

    Returns:
        Absolute difference of the mean colors behind the mask and elsewhere, averaged over scenes and channels, by the
        same with each scene's mask given to the next: 1 = grounds know nothing of the object, more = holes or shadows,
        of whatever color, also where ``hidden_less_seen`` is 0 because light ones and dark ones cancel. Scenes with
        nothing behind the mask, or nothing elsewhere, do not count.
    """
    def contrast(hides: torch.Tensor) -> torch.Tensor:
        behind, elsewhere = ((levels * part).sum(dim=[2, 3]) / part.sum(dim=[2, 3]) for part in (hides, 1 - hides))
        return (behind - elsewhere).abs().nanmean()  # 0 / 0 is NaN.

    levels, hides = grounds.double(), (masks >= 0.5).double()[:, None]
    return float(contrast(hides) / contrast(hides.roll(1, dims=0)))


@click.command()
@click.option("--network", help="Run or snapshot, repeatable", metavar="RUN|PKL", required=True, multiple=True)
@click.option("--grounds", help="Grounds of dataset_tool composites", metavar="ZIP|DIR", required=True)
@click.option("--masks", help="Masks of the same pictures", metavar="ZIP|DIR", required=True)
@click.option("--num", help="Scenes, and true grounds", type=Whole(2), default=2000)
@click.option("--seed", help="Random seed of the scenes", type=SEED, default=0)
@user_errors({PictureError: "--grounds", MaskError: "--masks", CheckpointError: "--network"})
def main(network: tuple[str, ...], grounds: str, masks: str, num: int, seed: int) -> None:
    """How grounds differ behind the object, drawn and true; JSON on stdout, the table on stderr.

    Step: levels of 255 by which they are lighter behind objects than in sight at the same pixel. Ratio: how far they
    stand out behind their own object, beside behind those of other scenes.

    \b
    Example:
    python -m benchmarks.grounds --network=runs/00000-plants-lit --network=runs/00002-plants-lit \\
        --grounds=data/plants-lit-grounds.zip --masks=data/plants-lit-grounds-masks.zip
    """
    records, rows, files, names = [], [], MaskFiles(masks), PictureSource(grounds).names
    files.check_names(names, grounds)
    for path in network:
        snapshot = load_snapshot(path)
        G_ema, size_px = snapshot["G_ema"], (snapshot.get("training_set_kwargs") or {}).get("size_px")
        parts = [(to_uint8(layers.bg), union_mask(layers)[:, 0]) for layers in draw_scenes(G_ema, num, seed)]
        drawn = [torch.cat(part) for part in zip(*parts, strict=True)]
        true = [real_pictures(grounds, G_ema.img_resolution, num, size_px),
                real_masks(files, names, G_ema.img_resolution, num, size_px)]
        name = "/".join(PurePosixPath(snapshot["path"]).parts[-2:])
        steps, ratios = ([round(score(*both), 2) for both in (drawn, true)]
                         for score in (hidden_less_seen, contrast_ratio))
        records.append(dict(network=name, drawn=dict(step=steps[0], ratio=ratios[0]),
                            true=dict(step=steps[1], ratio=ratios[1])))
        rows.append(f"| {name} | {steps[0]:+.1f} | {steps[1]:+.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    print("| network | step, drawn | true | ratio, drawn | true |", "|---|---|---|---|---|", *rows, sep="\n",
          file=sys.stderr)
    print(json.dumps(dict(grounds=PurePosixPath(grounds).name, num=num, seed=seed, networks=records,
                          **provenance("benchmarks.grounds"))))


if __name__ == "__main__":
    main()
