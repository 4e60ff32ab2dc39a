"""Find the layers of one real picture: the codes with which a trained generator draws it again.

Run as `python -m layered_plugin.projector`; options that upstream's projector.py has mean the same here.
"""

import collections
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import torch

from layered_plugin import video
from layered_plugin.command_line import DEVICES, SEED, SETTINGS, CheckedCommand, Number, Whole, user_errors, writing
from layered_plugin.data.pictures import decode, to_float, to_square
from layered_plugin.device import choose_device, must_fp32, tune_cpu
from layered_plugin.errors import CheckpointError, ModelError, PictureError, raising
from layered_plugin.files import atomic_write
from layered_plugin.grids import save_picture
from layered_plugin.model.layers import Layers
from layered_plugin.model.open_raster import scene_layers, write_open_raster
from layered_plugin.model.scenes import Scene, draw_layers, one_hot, to_pictures
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.progress import progress
from layered_plugin.segmentation.projection import SPACES, PerceptualDistance, Step, project
from layered_plugin.segmentation.reconstruction import Reconstruction

FILES = {"composites": "proj", "masks": "mask", "cutouts": "cutout", "backgrounds": "background",
         "foregrounds": "foreground"}


@click.command(cls=CheckedCommand, context_settings=SETTINGS)
@click.option("--network", help="Layered generator", required=True, metavar="RUN|PKL|URL|DIR")
@click.option("--snapshot", help="Which of a run's", default="best", metavar="best|latest|KIMG")
@click.option("--target", help="Picture to draw again", required=True, metavar="FILE")
@click.option("--num-steps", help="Steps", type=Whole(1, 10**6), default=1000)
@click.option("--seed", help="Of the codes to start among", type=SEED, default=303)
@click.option("--save-video", help="Write proj.mp4  [default: if it can be]", type=bool, metavar="BOOL")
@click.option("--outdir", help="Folder for the results", required=True, metavar="DIR")
@click.option("--space", help="One code per part, or one per layer", type=click.Choice(SPACES), default="w")
@click.option("--lr", help="Learning rate at the start", type=Number(min=0, min_open=True), default=0.05)
@click.option("--feature-resolution", help="D's features  [default: 16, at most half]", metavar="PX",
              type=Whole(min=4))
@click.option("--feature-weight", help="Weight of D's features", type=Number(min=0), default=1.0)
@click.option("--vgg", help="Upstream's vgg16.pt, to add LPIPS", metavar="PT")
@click.option("--perceptual-weight", help="Weight of LPIPS", type=Number(min=0), default=1.0)
@click.option("--class", "class_idx", help="Class, for a conditional network", type=Whole(min=0))
@click.option("--device", help="Where to compute", type=DEVICES, default="auto")
@user_errors({CheckpointError: "--network", PictureError: "--target", ModelError: "--vgg"})
def main(network: str, snapshot: str, target: str, num_steps: int, seed: int, save_video: bool | None, outdir: str,
         feature_resolution: int | None, feature_weight: float, vgg: str | None, class_idx: int | None, device: str,
         **how: Any) -> None:
    """Find the layers of one real picture: the codes with which the generator draws it again.

    The loss is the paper's equation 7: pixels, and features of the discriminator; --vgg adds LPIPS, upstream's measure.
    The picture is squeezed to the network's square, as in training; upstream cuts its middle out instead. Noise stays
    as it is. --outdir gets upstream's target.png, proj.png, projected_w.npz and proj.mp4 (pip install
    'layered-plugin[video]'), and mask.png, cutout.png, background.png, foreground.png and proj.ora, a layer each;
    of a network of several objects those of each are numbered.

    For masks of many pictures, `invert.py distill` and `segment` are quicker and better.

    \b
    Examples:
    python -m layered_plugin.projector --network=runs/00000-my-cars --target=car.jpg --outdir=out
    python -m layered_plugin.projector --network=runs/00000-my-cars --target=car.jpg --space=w+ --outdir=out
    python -m layered_plugin.generate --network=runs/00000-my-cars --projected-w=out/projected_w.npz --outdir=again
    """
    if save_video:
        video.check_can_write()
    device = choose_device(device)
    tune_cpu()
    networks = load_snapshot(network, device, snapshot)
    G, D = networks["G_ema"], networks["D"]
    square = read_square(target, G.img_resolution)
    img = to_float(torch.from_numpy(square).to(device))[None]
    perceptual = None if vgg is None else PerceptualDistance(vgg, device)
    objective = Reconstruction(G, D, feature_resolution=feature_resolution, feature_weight=feature_weight,
                               force_fp32=must_fp32(G))
    c = torch.tensor([one_hot(G, class_idx)], device=device)
    found = _finite(project(objective, img, c, num_steps, seed=seed, perceptual=perceptual, **how), networks["path"])
    start = next(found)  # Before anything is written.
    steps = itertools.chain([start], progress(found, num_steps, "Steps"))
    with writing("--outdir", outdir):
        Path(outdir).mkdir(parents=True, exist_ok=True)
        if video.can_write() if save_video is None else save_video:
            last = _film(steps, square, Path(outdir, "proj.mp4"))
        else:
            *_, last = steps
        write_results(outdir, square, last.ws, draw_layers(G, last.ws))
    click.echo(", ".join(f"{name} {value:.4f}" for name, value in last.terms.items()), err=True)
    click.echo(Path(outdir, "proj.png"))


def read_square(path: str, size_px: int) -> np.ndarray:
    """A picture file squeezed to RGB [3, size_px, size_px], uint8; PictureError if it can't be read."""
    with raising(PictureError, f"{path}: not a readable picture",
                 OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        with open(path, "rb") as file:
            return to_square(decode(file), size_px).copy()  # PyTorch wants it writable.


def _finite(steps: Iterator[Step], path: str) -> Iterator[Step]:
    """The steps as they come; CheckpointError, which names the network, at a loss that is infinite or not a number."""
    for number, step in enumerate(steps):
        if not math.isfinite(step.terms["loss"]):
            raise CheckpointError(f"{path}: loss is not finite at step {number}; choose another network, or a lower "
                                  "`lr`")
        yield step


def _film(steps: Iterator[Step], square: np.ndarray, path: Path) -> Step:
    """Write a frame per step beside the target, as they come; the last step."""
    taken: collections.deque[Step] = collections.deque(maxlen=1)

    def frames() -> Iterator[np.ndarray]:
        for step in steps:
            taken.append(step)
            yield np.concatenate([square.transpose(1, 2, 0), *_panels(to_pictures(step.layers)[0])], axis=1)

    try:
        video.write_video(path, frames())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return taken[0]


def _panels(scene: Scene) -> Iterator[np.ndarray]:
    """What the film shows beside the target: composite, background, mask, cut-out on black."""
    yield scene["composites"]
    yield scene["backgrounds"]
    yield scene["masks"][:, :, None].repeat(3, axis=2)
    for kind, picture in scene.items():
        if kind.startswith("cutouts"):
            yield (picture[:, :, :3] * (picture[:, :, 3:] / 255)).round().astype(np.uint8)


def write_results(outdir: str, square: np.ndarray, ws: torch.Tensor, layers: Layers) -> None:
    """Write target, composite, layers and codes; see the command's help."""
    folder = Path(outdir)
    scene = to_pictures(layers)[0]
    save_picture(PIL.Image.fromarray(square.transpose(1, 2, 0)), folder / "target.png")
    for kind, picture in scene.items():
        name = kind.rstrip("0123456789")
        save_picture(PIL.Image.fromarray(picture), folder / f"{FILES[name]}{kind[len(name):]}.png")
    write_open_raster(folder / "proj.ora", scene_layers(scene))
    with atomic_write(folder / "projected_w.npz") as file:
        np.savez(file, w=ws.cpu().numpy())


if __name__ == "__main__":
    main()
