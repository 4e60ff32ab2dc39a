"""A stand-in for somebody's fork: a command line and a loop of its own on the interface of StyleGAN2-ADA.

The test of docs/upstream.md puts the lines of "Add layers to your own fork" in the place of the marker below.
"""

import click
import dnnlib
import forked_loop


def setup_training_loop_kwargs(data):
    """What the fork's options become: classes by name, as upstream's train.py has them."""
    args = dnnlib.EasyDict(total_kimg=0.032, batch_size=8, run_dir=None)
    args.training_set_kwargs = dnnlib.EasyDict(
        class_name="training.dataset.ImageFolderDataset", path=data, resolution=16, use_labels=False, max_size=None,
        xflip=False)
    channels = dict(channel_base=64, channel_max=4)
    args.G_kwargs = dnnlib.EasyDict(
        class_name="training.networks.Generator", z_dim=8, w_dim=8, mapping_kwargs=dnnlib.EasyDict(num_layers=2),
        synthesis_kwargs=dnnlib.EasyDict(channels))
    args.D_kwargs = dnnlib.EasyDict(class_name="training.networks.Discriminator", **channels)
    args.loss_kwargs = dnnlib.EasyDict(class_name="training.loss.StyleGAN2Loss", r1_gamma=0.5)
    return args


@click.command()
@click.option("--outdir", required=True)
@click.option("--data", required=True)
def main(outdir, data):
    """Train for four steps."""
    args = setup_training_loop_kwargs(data)
    args.run_dir = outdir
    # The lines go here.
    forked_loop.training_loop(**args)


if __name__ == "__main__":
    main()
