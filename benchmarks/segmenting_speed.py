"""How much quicker the distilled segmenter is than encoder and generator, in one run on one machine.

Random weights: speed does not depend on them. Results go to standard output as JSON.
"""

import json
import time
from collections.abc import Callable

import click
import numpy as np
import torch

from benchmarks.support.provenance import provenance
from layered_plugin.command_line import Whole
from layered_plugin.device import fast_half, must_fp32
from layered_plugin.model.encoder import Encoder, decode
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import composite
from layered_plugin.model.unet import fold_batch_norm
from layered_plugin.segmentation.train_distilled import make_segmenting_unet


def seconds(work: Callable[[], object], rounds: int) -> list[float]:
    """Wall seconds of each round, after one that is not counted."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


@click.command()
@click.option("--resolution", help="Side of the pictures", metavar="PX", type=Whole(1), default=64, show_default=True)
@click.option("--batch", help="Pictures at a time", metavar="INT", type=Whole(1), default=64, show_default=True)
@click.option("--cbase", help="Channels x resolution of the generator", metavar="INT", type=Whole(1), default=32768,
              show_default=True)
@click.option("--cmax", help="Most channels of a layer", metavar="INT", type=Whole(1), default=512, show_default=True)
@click.option("--w-dim", help="Width of w", metavar="INT", type=Whole(1), default=512, show_default=True)
@click.option("--rounds", help="Paired rounds", metavar="INT", type=Whole(1), default=5, show_default=True)
def main(resolution: int, batch: int, cbase: int, cmax: int, w_dim: int, rounds: int) -> None:
    """Time the mask of a batch by both routes, in turns.

    \b
    Example:
    python -m benchmarks.segmenting_speed --cbase=1024 --cmax=64 --w-dim=128
    """
    torch.manual_seed(0)
    G = LayeredGenerator(z_dim=w_dim, c_dim=0, w_dim=w_dim, img_resolution=resolution, img_channels=3,
                         synthesis_kwargs=dict(channel_base=cbase, channel_max=cmax)).eval()
    force_fp32 = must_fp32(G)
    E = Encoder(resolution, G.num_ws, G.w_dim, max_shift=0.2).eval()
    unet = fold_batch_norm(make_segmenting_unet(resolution, seed=0))  # As Segmenter has it.
    img = torch.rand(batch, 3, resolution, resolution).contiguous(memory_format=torch.channels_last) * 2 - 1

    def distilled() -> torch.Tensor:
        with fast_half("cpu"):
            return unet(img).float().sigmoid()

    routes = dict(distilled=distilled,
                  encoder=lambda: composite(decode(G, E(img), force_fp32=force_fp32)))
    times: dict[str, list[float]] = {name: [] for name in routes}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, work in routes.items():
                times[name] += seconds(work, 1)
    ratios = [slow / quick for slow, quick in zip(times["encoder"], times["distilled"], strict=True)]
    print(json.dumps(dict(
        pictures_per_sec={name: batch / float(np.median(values)) for name, values in times.items()},
        ratio_median=float(np.median(ratios)), ratio_min=min(ratios), ratio_max=max(ratios), resolution=resolution,
        batch=batch, cbase=cbase, cmax=cmax, w_dim=w_dim, rounds=rounds, threads=torch.get_num_threads(),
        **provenance("benchmarks.segmenting_speed")), indent=2))


if __name__ == "__main__":
    main()
