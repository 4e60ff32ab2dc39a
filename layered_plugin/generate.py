"""Draw scenes from a trained generator, each picture together with its mask and layers.

Run as `python -m layered_plugin.generate`; options that upstream's generate.py has mean the same here.
"""

import os
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from layered_plugin.command_line import DEVICES, SETTINGS, CheckedCommand, Number, Whole, user_errors, writing
from layered_plugin.dataset_options import check_zips
from layered_plugin.device import choose_device
from layered_plugin.errors import ArgumentError, CheckpointError, UserError, raising
from layered_plugin.grids import save_picture
from layered_plugin.model.layers import Layers
from layered_plugin.model.scenes import draw_layers, draw_sheet, one_hot, seed_codes, to_pictures, write_scenes
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.progress import progress

NOISE_MODES = ("const", "random", "none")

SHEET_SCENES = 16  # Columns of a sheet; more are too wide to read at a glance.

MAX_SEED = 2**32 - 1  # NumPy's.
MAX_SCENES = 10**7  # Of one range.


def parse_seeds(text: str, name: str = "seeds") -> list[int]:
    """Numbers and ranges, such as `0,3,5-9`, in the order given, each once; ArgumentError for another text."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,10})(?:-([0-9]{1,10}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last <= MAX_SEED:
            raise ArgumentError(f"`{name}` must be numbers and rising ranges such as 0,3,5-9, up to {MAX_SEED}, "
                                f"got {text[:40]!r}")
        if last - first >= MAX_SCENES:
            raise ArgumentError(f"`{name}` must be ranges of at most {MAX_SCENES} numbers, got {text[:40]!r}")
        seeds.extend(range(first, last + 1))
    return list(dict.fromkeys(seeds))


def read_codes(path: str | os.PathLike[str], G: Any) -> torch.Tensor:
    """`w` of an npz file of upstream's projector.py, [K, num_ws, w_dim]; UserError if it does not fit G."""
    with raising(UserError, f"`projected_w`: {path}: not a readable npz file with an array w",
                 OSError, ValueError, KeyError, IndexError, EOFError, MemoryError, zipfile.BadZipFile):
        with open(path, "rb") as file:
            w = np.load(file)["w"]
    if w.dtype.kind != "f" or w.ndim != 3 or len(w) == 0 or w.shape[1:] != (G.num_ws, G.w_dim):
        raise UserError(f"`projected_w`: {path}: w must be float [K, {G.num_ws}, {G.w_dim}] for this "
                        f"network, got {w.dtype} {list(w.shape)}")
    return torch.from_numpy(w.astype(np.float32)).to(G.mapping.w_avg.device)


@click.command(cls=CheckedCommand, context_settings=SETTINGS)
@click.option("--network", help="Layered generator", required=True, metavar="RUN|PKL|URL|DIR")
@click.option("--snapshot", help="Which of a run's", default="best", metavar="best|latest|KIMG")
@click.option("--seeds", help="Scenes to draw, such as 0,3,5-9", metavar="LIST")
@click.option("--trunc", help="Truncation psi, 1 = none", type=Number(-10, 10), default=1.0)
@click.option("--class", "class_idx", help="Class, for a conditional network", type=Whole(min=0))
@click.option("--noise-mode", help="Noise of the pictures", type=click.Choice(NOISE_MODES), default="const")
@click.option("--projected-w", help="Codes to draw instead of seeds", metavar="NPZ")
@click.option("--outdir", help="Folder for pictures of every kind", metavar="DIR")
@click.option("--zip", "zip_path", help="Data set of the composites", metavar="ZIP")
@click.option("--masks-zip", help="Its masks, by default NAME-masks.zip", metavar="ZIP")
@click.option("--grid", help=f"Sheet of the first {SHEET_SCENES} scenes", metavar="PNG")
@click.option("--batch", help="Scenes at a time", type=Whole(1, 2**16), default=32)
@click.option("--device", help="Where to draw", type=DEVICES, default="auto")
@user_errors({CheckpointError: "--network"})
def main(network: str, snapshot: str, seeds: str | None, trunc: float, class_idx: int | None, noise_mode: str,
         projected_w: str | None, outdir: str | None, zip_path: str | None, masks_zip: str | None, grid: str | None,
         batch: int, device: str) -> None:
    """Draw scenes from a trained generator: pictures together with their masks.

    --outdir gets composites/seed0000.png and so on, and beside it masks/, cutouts/ (transparent around the object),
    backgrounds/ and foregrounds/. If the network draws several objects, masks/ is of all together, and masks1/ (what is
    visible), cutouts1/ and foregrounds1/ of the hindmost, masks2/ and so on of the others. --zip is a data set of
    composites in the order of the seeds, with its masks. A network's pickle can run code: load only what you trust.

    \b
    Examples:
    python -m layered_plugin.generate --network=runs/00000-my-cars --seeds=0-99 --outdir=out
    python -m layered_plugin.generate --network=runs/00000-my-cars --seeds=0-9999 --zip=data/drawn.zip
    python -m layered_plugin.generate --network=runs/00000-my-cars --seeds=3,5-9 --trunc=0.7 --grid=out/sheet.png
    """
    zips = _zip_pair(zip_path, masks_zip)
    if outdir is None and grid is None and not zips:
        raise click.UsageError("at least one of --outdir, --zip and --grid must be given")
    if grid is not None and not grid.lower().endswith(".png"):
        raise click.UsageError(f"--grid must end in .png, got {grid}")
    G, numbers, codes, label = _choose_codes(network, snapshot, seeds, trunc, class_idx, projected_w, device)
    name = "seed{:04d}" if projected_w is None else "proj{:02d}"

    def draw(part: list[int]) -> Layers:
        return draw_layers(G, codes(part), noise_mode, part, batch)

    with writing("--outdir, --zip, --masks-zip or --grid"):
        if grid is not None:
            Path(grid).parent.mkdir(parents=True, exist_ok=True)
            save_picture(draw_sheet(draw(numbers[:SHEET_SCENES])), grid)
        if outdir is not None or zips:
            parts = (numbers[start:start + batch] for start in range(0, len(numbers), batch))
            scenes = (scene for part in parts for scene in to_pictures(draw(part)))
            named = progress(zip(map(name.format, numbers), scenes, strict=True), len(numbers), "Scenes")
            write_scenes(named, outdir, zips, label)
    for path in filter(None, (grid, outdir, *zips.values())):
        click.echo(path)


def _choose_codes(network: str, snapshot: str, seeds: str | None, trunc: float, class_idx: int | None,
                  projected_w: str | None,
                  device: str) -> tuple[Any, list[int], Callable[[list[int]], torch.Tensor], list[float]]:
    """From values of options to G, the numbers of the scenes, their codes, and the label of all."""
    if seeds is None and projected_w is None:
        raise click.UsageError("--seeds must be given, for example --seeds=0-99, or else --projected-w")
    numbers = parse_seeds(seeds) if seeds is not None else []
    G = load_snapshot(network, choose_device(device), snapshot)["G_ema"]
    if projected_w is not None:
        if seeds is not None or class_idx is not None or trunc != 1:
            click.echo("WARNING: --seeds, --class and --trunc are ignored with --projected-w", err=True)
        ws = read_codes(projected_w, G)
        return G, list(range(len(ws))), ws.__getitem__, []
    label = one_hot(G, class_idx)
    return G, numbers, partial(seed_codes, G, class_idx=class_idx, truncation_psi=trunc), label


def _zip_pair(pictures: str | None, masks: str | None) -> dict[str, str]:
    """Zips of composites and masks by the values of --zip and --masks-zip; empty if none is asked for."""
    if pictures is None:
        if masks is not None:
            raise click.UsageError("--masks-zip can only be given with --zip")
        return {}
    masks = masks or f"{pictures[:-len('.zip')]}-masks.zip"
    check_zips({"--zip": pictures, "--masks-zip": masks})
    return dict(composites=pictures, masks=masks)


if __name__ == "__main__":
    main()
