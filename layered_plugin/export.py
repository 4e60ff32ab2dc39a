"""Hand a trained generator, or scenes of it, to other programs.

Run as `python -m layered_plugin.export`. A distilled segmenter is exported by `invert.py export`.
"""

from pathlib import Path

import click

from layered_plugin.command_line import SETTINGS, CheckedGroup, Number, Whole, several_options, user_errors, writing
from layered_plugin.errors import CheckpointError
from layered_plugin.generate import parse_seeds
from layered_plugin.model.onnx_scenes import export_scenes
from layered_plugin.model.open_raster import scene_layers, write_open_raster
from layered_plugin.model.parts import background_networks, foreground_networks
from layered_plugin.model.scenes import draw_layers, one_hot, seed_codes, to_pictures
from layered_plugin.model.snapshots import load_snapshot, save_network_pkl
from layered_plugin.model.weights_file import WEIGHTS_FILE, save_generator
from layered_plugin.progress import progress
from layered_plugin.trust import GENERATOR_FILE

BATCH = 32  # Scenes at a time.

network_options = several_options(
    click.option("--network", help="Layered generator", required=True, metavar="RUN|PKL|URL|DIR"),
    click.option("--snapshot", help="Which of a run's", default="best", metavar="best|latest|KIMG"))

truncation_option = click.option("--trunc", help="Truncation psi, 1 = none", type=Number(-10, 10), default=1.0)

named = user_errors({CheckpointError: "--network"})


@click.group(cls=CheckedGroup, context_settings=SETTINGS)
def main() -> None:
    """Hand a trained generator, or scenes of it, to other programs.

    \b
    Examples:
    python -m layered_plugin.export background --network=runs/00000-my-cars --dest=background.pkl
    python -m layered_plugin.export foreground --network=runs/00000-my-cars --dest=foreground.pkl
    python -m layered_plugin.export generator --network=runs/00000-my-cars --dest=my-cars
    python -m layered_plugin.export onnx --network=runs/00000-my-cars --dest=my-cars.onnx
    python -m layered_plugin.export scenes --network=runs/00000-my-cars --seeds=0-9 --outdir=scenes

    A distilled segmenter becomes ONNX by `invert.py export`. A network's pickle can run code: load only what you trust.
    """


@main.command(short_help="The background as an ordinary snapshot")
@network_options
@click.option("--dest", help="Pickle to write", required=True, metavar="PKL")
@named
def background(network: str, snapshot: str, dest: str) -> None:
    """Write the background as an ordinary three-channel snapshot, which every StyleGAN2-ADA tool opens.

    Its classes are the base's own, in fp32; this package need not be there. The discriminator is the layered one's,
    which judges whole pictures.

    \b
    Example:
    python -m layered_plugin.export background --network=runs/00000-my-cars --dest=background.pkl
    """
    _save(dest, background_networks(load_snapshot(network, choice=snapshot)))


@main.command(short_help="An object as a snapshot of four channels")
@network_options
@click.option("--object", "number", help="Which object, from back to front", type=Whole(min=1), default=1)
@click.option("--dest", help="Pickle to write", required=True, metavar="PKL")
@named
def foreground(network: str, snapshot: str, number: int, dest: str) -> None:
    """Write an object as a four-channel snapshot: colours, and opacity from -1 to 1.

    The pickle brings its few lines of code along; this package need not be there. Upstream's own scripts save three
    channels only: use G(z, c) of such a network in a program of yours.

    \b
    Example:
    python -m layered_plugin.export foreground --network=runs/00000-my-cars --dest=foreground.pkl
    """
    _save(dest, foreground_networks(load_snapshot(network, choice=snapshot), number))


def _save(dest: str, snapshot: dict) -> None:
    with writing("--dest", dest):
        Path(dest).parent.mkdir(parents=True, exist_ok=True)
        save_network_pkl(dest, snapshot)
    click.echo(dest)


@main.command(short_help="Generator and discriminator without code")
@network_options
@click.option("--dest", help="Folder to write", required=True, metavar="DIR")
@named
def generator(network: str, snapshot: str, dest: str) -> None:
    """Write the whole generator and its discriminator as safetensors and JSON, from which no code runs.

    DIR gets generator.safetensors and generator.json; --network=DIR of the other commands and --resume=DIR of
    train_layered.py take it as they take a snapshot.

    \b
    Examples:
    python -m layered_plugin.export generator --network=runs/00000-my-cars --dest=my-cars
    python -m layered_plugin.generate --network=my-cars --seeds=0-99 --outdir=scenes
    """
    networks = load_snapshot(network, choice=snapshot)
    with writing("--dest", dest):
        Path(dest).mkdir(parents=True, exist_ok=True)
        save_generator(dest, networks)
    click.echo(f"{Path(dest, WEIGHTS_FILE)}\n{Path(dest, GENERATOR_FILE)}")


@main.command(short_help="The generator as ONNX")
@network_options
@truncation_option
@click.option("--dest", help="File to write", required=True, metavar="ONNX")
@named
def onnx(network: str, snapshot: str, trunc: float, dest: str) -> None:
    """Write the whole generator as ONNX, for programs without PyTorch, and check it against PyTorch.

    Inputs: z [N, z_dim], normal numbers; shift [N, K, 2], int64, how far each of the K objects is moved in pixels,
    mostly zeros: (dx, dy) as in equation 2 of the paper, above 0 to the left and up, below 0 to the right and down; of
    a conditional network label [N, c_dim], 1 for the class, else 0. Outputs, float32: picture [N, 3, R, R] in about
    [-1, 1]; mask [N, K, R, R] in [0, 1]. N is free. Noise and --trunc are fixed in the file. Needs
    pip install 'layered-plugin[onnx]'.

    \b
    Example:
    python -m layered_plugin.export onnx --network=runs/00000-my-cars --dest=my-cars.onnx
    """
    G = load_snapshot(network, choice=snapshot)["G_ema"]
    click.echo("Converting: a minute or two", err=True)
    with writing("--dest", dest):
        Path(dest).parent.mkdir(parents=True, exist_ok=True)
        difference = export_scenes(G, dest, trunc)
    click.echo(f"{dest}: differs from PyTorch by at most {difference:.1e}", err=True)


@main.command(short_help="Scenes as OpenRaster files, a layer each")
@network_options
@click.option("--seeds", help="Scenes to draw, such as 0,3,5-9", required=True, metavar="LIST")
@truncation_option
@click.option("--class", "class_idx", help="Class, for a conditional network", type=Whole(min=0))
@click.option("--outdir", help="Folder for the .ora files", required=True, metavar="DIR")
@named
def scenes(network: str, snapshot: str, seeds: str, trunc: float, class_idx: int | None, outdir: str) -> None:
    """Draw scenes as OpenRaster files for painters: background and objects, a layer each.

    GIMP, Krita and MyPaint open seed0000.ora and so on. Scenes are those of `generate` with the same seeds.

    \b
    Example:
    python -m layered_plugin.export scenes --network=runs/00000-my-cars --seeds=0-9 --outdir=scenes
    """
    numbers = parse_seeds(seeds)
    G = load_snapshot(network, choice=snapshot)["G_ema"]
    one_hot(G, class_idx)
    parts = [numbers[start:start + BATCH] for start in range(0, len(numbers), BATCH)]
    drawn = (scene for part in parts for scene in to_pictures(
        draw_layers(G, seed_codes(G, part, class_idx, trunc), noise_seeds=part, batch=BATCH)))
    with writing("--outdir", outdir):
        Path(outdir).mkdir(parents=True, exist_ok=True)
        for seed, scene in progress(zip(numbers, drawn, strict=True), len(numbers), "Scenes"):
            write_open_raster(Path(outdir) / f"seed{seed:04d}.ora", scene_layers(scene))
    click.echo(outdir)


if __name__ == "__main__":
    main()
