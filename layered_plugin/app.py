"""A page in the browser: drop a picture and see its mask; look through scenes, and move their objects.

Run as `python -m layered_plugin.app`; needs Gradio (`pip install 'layered-plugin[app]'`).
"""

import os
from typing import Any

import click
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from layered_plugin import trust
from layered_plugin.command_line import DEVICES, SETTINGS, CheckedCommand, Whole, user_errors
from layered_plugin.data.masks import THRESHOLD
from layered_plugin.data.pictures import to_rgb, to_uint8
from layered_plugin.device import choose_device
from layered_plugin.errors import CheckpointError, MissingLibraryError, ModelError
from layered_plugin.model.layers import composite
from layered_plugin.model.perturb import shift_foreground
from layered_plugin.model.scenes import draw_layers, seed_codes
from layered_plugin.model.snapshots import find_snapshot, load_snapshot
from layered_plugin.segmentation.edges import cut_out, is_enlarged
from layered_plugin.segmentation.segmenter import Segmenter

NUM_SCENES = 16  # Of the gallery at a time.
CELL_PX = 128  # Least side of a scene as shown.


@click.command(cls=CheckedCommand, context_settings=SETTINGS)
@click.option("--model", help="Run of invert.py train or distill", metavar="RUN")
@click.option("--network", help="Layered generator  [default: the model's]", metavar="RUN|PKL|URL|DIR")
@click.option("--snapshot", help="Which of a run's", default="best", metavar="best|latest|KIMG")
@click.option("--host", help="Address to listen at; 0.0.0.0 = all", default="127.0.0.1", metavar="ADDRESS")
@click.option("--port", help="Port to listen at", type=Whole(1, 65535), default=7860)
@click.option("--open/--no-open", "open_browser", help="Open the page in a browser", default=False)
@click.option("--device", help="Where to compute", type=DEVICES, default="auto")
@user_errors({ModelError: "--model", CheckpointError: "--network"})
def main(model: str | None, network: str | None, snapshot: str, host: str, port: int, open_browser: bool,
         device: str) -> None:
    """Show a model in the browser: masks of pictures that you drop, and scenes whose objects you can move.

    Nothing leaves this machine. Ctrl-C ends it. A network's pickle can run code: load only what you trust.

    \b
    Examples:
    python -m layered_plugin.app --model=runs/00001-distill
    python -m layered_plugin.app --model=runs/00001-distill --network=runs/00000-my-cars --port=8000
    python -m layered_plugin.app --network=runs/00000-my-cars
    """
    if model is None and network is None:
        raise click.UsageError("at least one of --model and --network must be given")
    check_gradio()
    segmenter = None if model is None else Segmenter.load(model, device)
    if segmenter is not None and segmenter.kind == "chunks":
        raise click.UsageError("--model: encoders of chunks know only their own pictures; give a distilled model, or "
                               "an encoder of a whole data set")
    if network is None:
        network = own_network(segmenter.options.get("network"), snapshot)  # type: ignore[union-attr]
    G = None if network is None else load_snapshot(network, choose_device(device), snapshot)["G_ema"]
    page = make_page(segmenter, G)
    page.launch(server_name=host, server_port=port, inbrowser=open_browser, share=False, show_error=True)


def own_network(path: str | None, snapshot: str = "best") -> str | None:
    """The network that a model's file names, if it is there and may be loaded on that word alone; else None."""
    if path is None or not os.path.exists(path):
        return None
    path = find_snapshot(path, snapshot)
    if not trust.is_saved_generator(path) and not trust.is_trusted(trust.pickle_hash(path)):
        click.echo(f"Without scenes: {path} was not made here; give --network={path} if you trust it", err=True)
        return None
    return path


def check_gradio() -> None:
    """Raise MissingLibraryError if Gradio is not there; tell it to report to nobody."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio  # noqa: F401
    except ImportError as err:
        raise MissingLibraryError(f"{err}; pip install 'layered-plugin[app]' brings what the page needs") from err


def segment(segmenter: Segmenter, picture: PIL.Image.Image | None) -> tuple[Any, Any, Any, str]:
    """What the page shows of a picture of any size and mode, turned upright by its EXIF; None = none was dropped.

    Returns:
        Mask, gray; cut-out, transparent around the object; the background behind it, None without an encoder; a line.
    """
    if picture is None:
        return None, None, None, "Drop a picture first."
    rgb = to_rgb(PIL.ImageOps.exif_transpose(picture))
    result = segmenter([rgb])[0]
    opacity = (result.mask * 255).round().astype(np.uint8)
    cutout = cut_out(rgb, result.mask, opacity, is_enlarged(rgb.size, segmenter.resolution))
    background = None if result.bg is None else PIL.Image.fromarray(result.bg)
    share = (result.mask >= THRESHOLD).mean()
    text = f"Object: {share:.0%} of the picture. Confidence: {result.confidence:.2f}"
    return PIL.Image.fromarray(opacity), cutout, background, text


def moved_scenes(G: Any, first: int, right: int, down: int) -> list[tuple[PIL.Image.Image, str]]:
    """Scenes of a layered generator whose objects have moved, from the seed `first` on, with their captions (Eq. 2).

    Right and down is where every object goes, in pixels of the network; Eq. 2 counts the other way.
    """
    seeds = list(range(first, first + NUM_SCENES))
    codes = seed_codes(G, seeds, class_idx=0 if G.c_dim > 0 else None)
    layers = draw_layers(G, codes, noise_seeds=seeds)
    shift = torch.tensor([[-right, -down]], device=codes.device).expand(len(seeds) * G.num_objects, 2)
    pictures = to_uint8(composite(shift_foreground(layers, shift))).permute(0, 2, 3, 1).cpu().numpy()
    scale = max(1, CELL_PX // G.img_resolution)
    return [(PIL.Image.fromarray(picture).resize((G.img_resolution * scale,) * 2, PIL.Image.Resampling.NEAREST),
             f"seed {seed}") for seed, picture in zip(seeds, pictures, strict=True)]


def make_page(segmenter: Segmenter | None, G: Any) -> Any:
    """The page as Gradio's Blocks: a tab for masks of pictures, one for scenes of a generator; None = no such tab."""
    import gradio as gr

    with gr.Blocks(title="Layered StyleGAN2", analytics_enabled=False) as page:
        gr.Markdown("# Layered StyleGAN2: object masks without labels")
        if segmenter is not None:
            with gr.Tab("Pictures"):
                with gr.Row():
                    picture = gr.Image(type="pil", label="Picture", elem_id="picture")
                    mask = gr.Image(label="Mask", elem_id="mask", format="png", interactive=False)
                    cutout = gr.Image(label="Cut-out", elem_id="cutout", format="png", image_mode="RGBA",
                                      interactive=False)
                    background = gr.Image(label="Background", elem_id="background", format="png", interactive=False,
                                          visible=segmenter.kind != "distill")
                said = gr.Textbox(label="Result", elem_id="said", interactive=False)
                shown = [mask, cutout, background, said]
                picture.upload(lambda given: segment(segmenter, given), picture, shown)
                gr.Button("Segment", elem_id="segment").click(lambda given: segment(segmenter, given), picture, shown)
        if G is not None:
            far = G.img_resolution // 2
            with gr.Tab("Scenes"):
                with gr.Row():
                    first = gr.Number(0, label="First seed", precision=0, minimum=0, elem_id="first")
                    right = gr.Slider(-far, far, 0, step=1, label="Shift to the right, pixels", elem_id="right")
                    down = gr.Slider(-far, far, 0, step=1, label="Shift down, pixels", elem_id="down")
                gallery = gr.Gallery(label="Scenes", columns=8, elem_id="scenes", format="png")

                def draw(first: float, right: float, down: float) -> list[tuple[PIL.Image.Image, str]]:
                    return moved_scenes(G, int(first or 0), int(right), int(down))

                gr.Button("Draw", elem_id="draw").click(draw, [first, right, down], gallery)
                for slider in (right, down):
                    slider.release(draw, [first, right, down], gallery)
    return page


if __name__ == "__main__":
    main()
