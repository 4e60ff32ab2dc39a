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


@click.command()
@click.option("--network", help="Run or snapshot, repeatable", metavar="RUN|PKL", required=True, multiple=True)
@click.option("--grounds", help="Grounds of dataset_tool composites", metavar="ZIP|DIR", required=True)
@click.option("--masks", help="Masks of the same pictures", metavar="ZIP|DIR", required=True)
@click.option("--num", help="Scenes, and true grounds", metavar="INT", type=Whole(2), default=2000)
@click.option("--seed", help="Random seed of the scenes", metavar="INT", type=SEED, default=0)
@user_errors({PictureError: "--grounds", MaskError: "--masks", CheckpointError: "--network"})
def main(network: tuple[str, ...], grounds: str, masks: str, num: int, seed: int) -> None:
    """How much darker or lighter grounds are behind the object; JSON on stdout, the table on stderr.

    \b
    Example:
    python -m benchmarks.grounds --network=runs/00000-plants-lit --network=runs/00002-plants-lit \\
        --grounds=data/plants-lit-grounds.zip --masks=data/plants-lit-masks.zip
    """
    records, files, names = [], MaskFiles(masks), PictureSource(grounds).names
    files.check_names(names, grounds)
    for path in network:
        snapshot = load_snapshot(path)
        G_ema, size_px = snapshot["G_ema"], (snapshot.get("training_set_kwargs") or {}).get("size_px")
        parts = [(to_uint8(layers.bg), union_mask(layers)[:, 0]) for layers in draw_scenes(G_ema, num, seed)]
        drawn = hidden_less_seen(*(torch.cat(part) for part in zip(*parts, strict=True)))
        true = hidden_less_seen(real_pictures(grounds, G_ema.img_resolution, num, size_px),
                                real_masks(files, names, G_ema.img_resolution, num, size_px))
        name = "/".join(PurePosixPath(snapshot["path"]).parts[-2:])
        records.append(dict(network=name, drawn=round(drawn, 2), true=round(true, 2)))
    print("| network | drawn | true |", "|---|---|---|", *(f"| {one['network']} | {one['drawn']:+.1f} | "
                                                             f"{one['true']:+.1f} |" for one in records),
          sep="\n", file=sys.stderr)
    print(json.dumps(dict(grounds=PurePosixPath(grounds).name, num=num, seed=seed, networks=records,
                          **provenance("benchmarks.grounds"))))


if __name__ == "__main__":
    main()
