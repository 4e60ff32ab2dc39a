"""Mix styles of scenes, of whole scenes or of one layer alone.

Run as `python -m layered_plugin.style_mixing`; options that upstream's style_mixing.py has mean the same here.
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import torch

from layered_plugin.command_line import DEVICES, SETTINGS, CheckedCommand, Number, Whole, user_errors, writing
from layered_plugin.device import choose_device
from layered_plugin.errors import ArgumentError, CheckpointError
from layered_plugin.generate import NOISE_MODES, parse_seeds
from layered_plugin.grids import save_picture
from layered_plugin.model.scenes import Scene, draw_layers, one_hot, seed_codes, to_pictures
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.progress import progress

PARTS = ("all", "background", "foreground")
STYLES = "0-6"


@click.command(cls=CheckedCommand, context_settings=SETTINGS)
@click.option("--network", help="Layered generator", required=True, metavar="RUN|PKL|URL|DIR")
@click.option("--snapshot", help="Which of a run's", default="best", metavar="best|latest|KIMG")
@click.option("--rows", help="Seeds of the rows", required=True, metavar="LIST")
@click.option("--cols", help="Seeds of the columns", required=True, metavar="LIST")
@click.option("--styles", help="Layers that get the column's styles", default=STYLES, metavar="LIST")
@click.option("--part", help="Whose styles are mixed", type=click.Choice(PARTS), default="all")
@click.option("--trunc", help="Truncation psi, 1 = none", type=Number(-10, 10), default=1.0)
@click.option("--class", "class_idx", help="Class, for a conditional network", type=Whole(min=0))
@click.option("--noise-mode", help="Noise of the pictures", type=click.Choice(NOISE_MODES), default="const")
@click.option("--outdir", help="Folder for the results", required=True, metavar="DIR")
@click.option("--device", help="Where to draw", type=DEVICES, default="auto")
@user_errors({CheckpointError: "--network"})
def main(network: str, snapshot: str, rows: str, cols: str, styles: str, part: str, trunc: float,
         class_idx: int | None, noise_mode: str, outdir: str, device: str) -> None:
    """Mix styles: each picture has its row's styles, but for those of --styles, which are its column's.

    --outdir gets upstream's ROW-COL.png and grid.png, and beside them masks/, cutouts/, backgrounds/ and foregrounds/,
    of a network of several objects numbered as by `generate`.
    --part=foreground puts the objects of the columns into the scenes of the rows: with --styles=0-99, all of them.

    \b
    Examples:
    python -m layered_plugin.style_mixing --network=runs/00000-my-cars --rows=85,100,75 --cols=55,821 --outdir=out
    python -m layered_plugin.style_mixing --network=runs/00000-my-cars --rows=0-5 --cols=6-11 --styles=0-99 \\
        --part=foreground --outdir=out
    """
    row_seeds, col_seeds = parse_seeds(rows, "rows"), parse_seeds(cols, "cols")
    layers = parse_seeds(styles, "styles")
    G = load_snapshot(network, choose_device(device), snapshot)["G_ema"]
    one_hot(G, class_idx)
    chosen = [layer for layer in layers if layer < G.num_ws]
    if not chosen:
        raise ArgumentError(f"`styles` must name some of the layers 0 to {G.num_ws - 1} of this network, got {styles}")
    seeds = list(dict.fromkeys([*row_seeds, *col_seeds]))
    codes = dict(zip(seeds, seed_codes(G, seeds, class_idx, trunc), strict=True))
    drawn: dict[tuple[int, int], Scene] = {}
    for row in progress(row_seeds, len(row_seeds), "Rows"):
        ws = torch.stack([mix(codes[row], codes[col], chosen, part, G) for col in col_seeds])
        scenes = to_pictures(draw_layers(G, ws, noise_mode, [row] * len(ws)))
        drawn.update({(row, col): scene for col, scene in zip(col_seeds, scenes, strict=True)})
    heads = dict(zip(seeds, to_pictures(draw_layers(G, torch.stack(list(codes.values())), noise_mode, seeds)),
                     strict=True))
    with writing("--outdir", outdir):
        write_mixed(Path(outdir), drawn)
        save_picture(sheet(row_seeds, col_seeds, heads, drawn), Path(outdir) / "grid.png")
    click.echo(Path(outdir) / "grid.png")


def mix(ws: torch.Tensor, other: torch.Tensor, layers: list[int], part: str, G: Any) -> torch.Tensor:
    """Codes with the styles of others in some layers.

    Args:
        ws: Codes of a scene, [num_ws, w_dim] of all parts.
        other: Those to take styles from, the same shape.
        layers: Numbers of the layers of each synthesis network, below num_ws.
        part: Whose styles: "all", "background", or "foreground", of all objects.
        G: The generator.

    Raises:
        ArgumentError: G draws all parts with one network.
    """
    width = G.w_dim // len(G.synthesis.names)
    if part != "all" and G.synthesis.single:
        raise ArgumentError(f"`part`={part}: this network draws all parts from the same styles (--generator=single)")
    columns = {"all": slice(None), "background": slice(0, width), "foreground": slice(width, None)}[part]
    mixed = ws.clone()
    mixed[layers, columns] = other[layers, columns]
    return mixed


def write_mixed(folder: Path, drawn: dict[tuple[int, int], Scene]) -> None:
    """Write ROW-COL.png in the folder, and its layers in folders of their own."""
    for (row, col), scene in drawn.items():
        for kind, picture in scene.items():
            subfolder = folder if kind == "composites" else folder / kind
            subfolder.mkdir(parents=True, exist_ok=True)
            save_picture(PIL.Image.fromarray(picture), subfolder / f"{row}-{col}.png")


def sheet(rows: list[int], cols: list[int], heads: dict[int, Scene],
          drawn: dict[tuple[int, int], Scene]) -> PIL.Image.Image:
    """Mixed pictures in rows and columns, behind and below those that the styles are from; black in the corner."""
    corner = {"composites": np.zeros_like(heads[rows[0]]["composites"])}
    lines = [[corner, *(heads[col] for col in cols)],
             *([heads[row], *(drawn[row, col] for col in cols)] for row in rows)]
    strips = [np.concatenate([scene["composites"] for scene in line], axis=1) for line in lines]
    return PIL.Image.fromarray(np.concatenate(strips))


if __name__ == "__main__":
    main()
