"""Train an ordinary generator, one picture and no layers, with the base's own networks and loss.

What a user of StyleGAN2-ADA has before this plugin; `benchmarks.init_from` starts layers from it. Frames, optimizer and
moving average are those of `train_layered.py --cfg=demo`, so that both count the same pictures.
"""

import time
from pathlib import Path

import click
import torch
from torch_utils import training_stats
from training.loss import StyleGAN2Loss

from layered_plugin import device as devices
from layered_plugin.command_line import SEED, Number, Whole
from layered_plugin.data.dataset import PictureDataset, random_crop
from layered_plugin.data.pictures import CROP_RATIO, to_float
from layered_plugin.model.snapshots import save_network_pkl
from layered_plugin.training import phases, setup
from layered_plugin.training.feed import endless_batches

BATCH = 32
EVERY = 16  # Iterations from R1 to R1.


def networks_of(resolution: int, cbase: int, cmax: int, w_dim: int, map_depth: int, half: bool) -> dict[str, dict]:
    """class_name and arguments of G and D."""
    channels: dict = dict(channel_base=cbase, channel_max=cmax, num_fp16_res=4 if half else 0,
                          conv_clamp=256 if half else None)
    block = dict(fp16_channels_last=True, half_dtype="bfloat16") if half else {}
    G = dict(class_name="training.networks.Generator", z_dim=w_dim, w_dim=w_dim,
             mapping_kwargs=dict(num_layers=map_depth), synthesis_kwargs=dict(channels, **block))
    D = dict(class_name="training.networks.Discriminator", **channels, block_kwargs=block,
             epilogue_kwargs=dict(mbstd_group_size=4))
    return dict(G=G, D=D)


def train(data: str, pkl: Path, kimg: float, seed: int, resolution: int, kwargs: dict[str, dict]) -> float:
    """Train and write a pickle in upstream's format.

    Args:
        data: Pictures, folder or zip.
        pkl: Gets G, D and G_ema.
        kimg: Thousands of pictures to show.
        seed: Of all random numbers.
        resolution: Of the networks.
        kwargs: Of ``networks_of``.

    Returns:
        Seconds that it took.
    """
    device = setup.prepare_process("cpu", seed, cudnn_benchmark=False, allow_tf32=False)
    pictures = PictureDataset(path=data, size_px=round(resolution * CROP_RATIO))
    G, D, G_ema = setup.build_networks(kwargs["G"], kwargs["D"], pictures, resolution, device)
    loss = StyleGAN2Loss(device=device, G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, r1_gamma=0.5, pl_weight=0)
    opt = dict(class_name="torch.optim.Adam", lr=0.002, betas=[0.0, 0.99], eps=1e-8, fused=True)
    steps = phases.setup_phases("G", G, opt, None) + phases.setup_phases("D", D, opt, EVERY)
    batches = endless_batches(pictures, {}, BATCH, 0, 0, 1, seed)
    stats = training_stats.Collector(regex="Loss/.*")
    start = time.perf_counter()
    for idx in range(round(kimg * 1000 / BATCH)):
        real = to_float(random_crop(next(batches)[0], resolution))
        c = torch.zeros([BATCH, 0])
        for phase in steps:
            if idx % phase.interval == 0:
                phase.opt.zero_grad(set_to_none=True)
                phase.module.requires_grad_(True)
                loss.accumulate_gradients(phase=phase.name, real_img=real, real_c=c, sync=True, gain=phase.interval,
                                          gen_z=torch.randn([BATCH, G.z_dim]), gen_c=c)
                phase.module.requires_grad_(False)
                phase.opt.step()
        phases.update_ema(G, G_ema, BATCH, idx * BATCH, ema_kimg=10, ema_rampup=0.05)
        if idx % 50 == 49:
            stats.update()
            real_sign, fake_sign = (stats[f"Loss/signs/{kind}"] for kind in ("real", "fake"))
            click.echo(f"kimg {(idx + 1) * BATCH / 1000:.1f}  D's signs {real_sign:+.2f} {fake_sign:+.2f}  "
                       f"{(time.perf_counter() - start):.0f} s", err=True)
    save_network_pkl(pkl, dict(G=G, D=D, G_ema=G_ema, training_set_kwargs=None, augment_pipe=None))
    return time.perf_counter() - start


@click.command(context_settings=dict(show_default=True))
@click.option("--data", help="Training pictures", metavar="ZIP", required=True)
@click.option("--pkl", help="Pickle to write", metavar="PKL", required=True)
@click.option("--kimg", help="Length", type=Number(0, min_open=True), default=60, metavar="KIMG")
@click.option("--seed", help="Of all random numbers", type=SEED, default=0)
@click.option("--resolution", help="Of the networks", type=Whole(1), default=32, metavar="PX")
@click.option("--cbase", help="Channels x resolution", type=Whole(1), default=1024)
@click.option("--cmax", help="Most channels of a layer", type=Whole(1), default=64)
def main(data: str, pkl: str, kimg: float, seed: int, resolution: int, cbase: int, cmax: int) -> None:
    """Train an ordinary generator of the bundled base with the networks' sizes of --cfg=demo.

    \b
    Example:
    python -m benchmarks.support.plain_training --data=data/plants-lit.zip --pkl=runs/plain.pkl --kimg=60
    """
    torch.set_num_threads(1)
    half = devices.choose_precision("auto", "cpu", "bundled")[0] == "bf16"
    seconds = train(data, Path(pkl), kimg, seed, resolution, networks_of(resolution, cbase, cmax, 128, 4, half))
    click.echo(f"{pkl}: {kimg:g} kimg in {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
