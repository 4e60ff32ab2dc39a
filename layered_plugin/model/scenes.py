"""Draw scenes at random, from seeds or from codes, and write them as files: composite, layers, masks."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch

from layered_plugin.data.labels import Labels
from layered_plugin.data.picture_zip import picture_zips
from layered_plugin.data.pictures import to_uint8
from layered_plugin.device import must_fp32
from layered_plugin.errors import ArgumentError
from layered_plugin.grids import picture_rows
from layered_plugin.model.layers import Layers, composite, fold_objects, union_mask, visible_masks
from layered_plugin.progress import progress

Scene = dict[str, np.ndarray]  # Folder to picture.


def one_hot(G: Any, class_idx: int | None) -> list[float]:
    """Label of a class, c_dim numbers; ArgumentError if the network has classes but not this one, or none at all."""
    if G.c_dim == 0 and class_idx is not None:
        raise ArgumentError(f"`class_idx`={class_idx} can't be given: this network has no classes")
    if G.c_dim > 0 and class_idx not in range(G.c_dim):
        got = "none" if class_idx is None else class_idx
        raise ArgumentError(f"`class_idx` must be from 0 to {G.c_dim - 1} for this conditional network, got {got}")
    return [float(idx == class_idx) for idx in range(G.c_dim)]


@torch.no_grad()
def seed_codes(G: Any, seeds: Sequence[int], class_idx: int | None = None, truncation_psi: float = 1) -> torch.Tensor:
    """Codes of upstream's scenes: z of a seed is `np.random.RandomState(seed).randn(1, G.z_dim)`.

    Args:
        G: Generator in evaluation mode.
        seeds: N numbers below 2^32.
        class_idx: Class, for a conditional network.
        truncation_psi: Part of the way from the mean w to go, 1 = all of it.

    Returns:
        [N, num_ws, w_dim], on the generator's device.
    """
    device = G.mapping.w_avg.device
    z = np.concatenate([np.random.RandomState(seed).randn(1, G.z_dim) for seed in seeds]).astype(np.float32)
    c = torch.tensor(one_hot(G, class_idx), device=device).expand(len(seeds), -1)
    return G.mapping(torch.from_numpy(z).to(device), c, truncation_psi=truncation_psi)


@torch.no_grad()
def random_codes(G: Any, num: int, labels: Labels, generator: torch.Generator) -> torch.Tensor:
    """Codes of random scenes, [num, num_ws, w_dim], on the device of G, which is in evaluation mode.

    The source of randomness is on the CPU: the latents are drawn first, then the labels.
    """
    device = G.mapping.w_avg.device
    z = torch.randn([num, G.z_dim], generator=generator).to(device)
    return G.mapping(z, labels.draw(num, generator).to(device))


@torch.no_grad()
def draw_layers(G: Any, ws: torch.Tensor, noise_mode: str = "const", noise_seeds: Sequence[int] = (),
                batch: int = 32) -> Layers:
    """Draw scenes of which each depends on its own code alone, up to rounding.

    Args:
        G: Layered generator in evaluation mode.
        ws: Codes, [N, num_ws, w_dim].
        noise_mode: const, random or none.
        noise_seeds: N seeds of random noise; it differs between kinds of device. The global generator is left alone.
        batch: Scenes at a time; with random noise it is one.

    Returns:
        N scenes, computed in float32 also where the network was trained in half precision.
    """
    size = 1 if noise_mode == "random" else batch
    scenes = []
    with torch.random.fork_rng(devices=[ws.device] if ws.is_cuda else []):
        for start in range(0, len(ws), size):
            if noise_mode == "random":
                torch.manual_seed(noise_seeds[start])
            # The base may fuse modulation into the convolution for single pictures only, which rounds otherwise.
            scenes.append(G.synthesis(ws[start:start + size], noise_mode=noise_mode, return_layers=True,
                                      force_fp32=True, fused_modconv=False))
    return Layers(*(torch.cat(layer) for layer in zip(*scenes, strict=True)))


@torch.no_grad()
def draw_scenes(G: Any, num: int, seed: int, labels: Labels | None = None, batch: int = 32,
                trunc: float = 1.0, quiet: bool = False) -> Iterator[Layers]:
    """Draw scenes to be scored, a batch at a time; the same arguments give the same scenes.

    Args:
        G: Layered generator in evaluation mode.
        num: Number of scenes.
        seed: Of the latents, one stream for all scenes, and of the labels; the global generators are left alone.
        labels: Of the scenes; None = every class equally likely.
        batch: Scenes at a time; the latents do not depend on it.
        trunc: Truncation psi.
        quiet: Show no progress?

    Yields:
        The next scenes, unshifted, on the generator's device; in half precision where that is the network's.
    """
    device, force_fp32 = next(G.parameters()).device, must_fp32(G)
    labels = labels or Labels(G.c_dim)
    z_draws, c_draws = np.random.RandomState(seed), torch.Generator().manual_seed(seed)
    counts = [min(batch, num - start) for start in range(0, num, batch)]
    for count in counts if quiet else progress(counts, len(counts), "Batches of scenes"):
        z = torch.from_numpy(z_draws.randn(count, G.z_dim)).float().to(device)
        c = labels.draw(count, c_draws).to(device)
        yield G(z, c, noise_mode="const", return_layers=True, truncation_psi=trunc, force_fp32=force_fp32)


class Scenes(NamedTuple):
    """Generated scenes, on the CPU."""

    pictures: torch.Tensor  # Unshifted composites, [N, C, H, W], uint8.
    masks: torch.Tensor  # Of all objects together, [N, H, W], in [0, 1].


def collect_scenes(G: Any, num: int, seed: int, trunc: float = 1.0, batch: int = 32, labels: Labels | None = None,
                   quiet: bool = False) -> Scenes:
    """All scenes of ``draw_scenes`` as pictures and masks; arguments as there."""
    parts = [(to_uint8(composite(layers)).cpu(), union_mask(layers)[:, 0].float().cpu())
             for layers in draw_scenes(G, num, seed, labels, batch, trunc, quiet)]
    return Scenes(*map(torch.cat, zip(*parts, strict=True)))


def to_pictures(layers: Layers) -> list[Scene]:
    """Scenes as bytes.

    Args:
        layers: N scenes of K objects.

    Returns:
        For each scene uint8 pictures, by the folder that they go to: `masks` [H, W], 255 = object; `cutouts`
        [H, W, 4], the foreground with the mask as alpha; `composites`, `backgrounds` and `foregrounds` [H, W, 3]. The
        composite is `G(z, c)`, mixed from layers not yet clamped to [-1, 1]: at soft edges it may not be the mix of the
        layers as written.
        For K > 1 the mask is of all objects together, and for each object, numbered from back to front, there are
        `masks1`, what is visible of it, `cutouts1`, the whole object, and `foregrounds1`, and so on.
    """
    num_objects = layers.mask.shape[1]
    img, bg, fg = (_color(x) for x in (composite(layers), layers.bg, fold_objects(layers).fg))
    union, visible, opacity = (_gray(mask) for mask in (union_mask(layers), visible_masks(layers), layers.mask))
    fg = fg.reshape(len(bg), num_objects, *fg.shape[1:])  # [N, K, H, W, 3]
    scenes = []
    for idx in range(len(bg)):
        scene = dict(composites=img[idx], masks=union[idx, 0], backgrounds=bg[idx])
        for k in range(num_objects):
            suffix = str(k + 1) if num_objects > 1 else ""
            if num_objects > 1:
                scene["masks" + suffix] = visible[idx, k]
            scene["foregrounds" + suffix] = fg[idx, k]
            scene["cutouts" + suffix] = np.concatenate([fg[idx, k], opacity[idx, k, :, :, None]], axis=2)
        scenes.append(scene)
    return scenes


def _color(img: torch.Tensor) -> np.ndarray:
    return to_uint8(img).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()


def _gray(mask: torch.Tensor) -> np.ndarray:
    return (mask * 255).round().to(torch.uint8).cpu().numpy()


def draw_sheet(layers: Layers) -> PIL.Image.Image:
    """Scenes side by side, one per column, the cut-outs on black; with a mask, foreground and cut-out per object."""
    num_objects = layers.mask.shape[1]
    rows = dict(composite=composite(layers), mask=union_mask(layers) * 2 - 1, background=layers.bg)
    visible = visible_masks(layers).split(1, dim=1)
    for k, (fg, mask) in enumerate(zip(layers.fg.chunk(num_objects, dim=1), layers.mask.split(1, dim=1), strict=True)):
        suffix = f" {k + 1}" if num_objects > 1 else ""
        if num_objects > 1:
            rows["mask" + suffix] = visible[k] * 2 - 1
        rows.update({"foreground" + suffix: fg, "cutout" + suffix: (fg + 1) * mask - 1})
    return picture_rows(rows)


def write_scenes(scenes: Iterable[tuple[str, Scene]], outdir: str | os.PathLike[str] | None,
                 zips: Mapping[str, str | os.PathLike[str]], label: Sequence[float]) -> None:
    """Write named scenes to a folder, to zips, or both.

    Args:
        scenes: At least one; read as they are written.
        outdir: Gets a sub-folder for each kind of picture; files of the same name are replaced. None = no files.
        zips: Kind of picture to the zip for it; names are the same in all, which appear when all is written.
        label: Label of every composite in its zip, empty = none.
    """
    with picture_zips(zips) as archives:
        for name, scene in scenes:
            if outdir is not None:
                for folder, picture in scene.items():
                    (Path(outdir) / folder).mkdir(parents=True, exist_ok=True)
                    PIL.Image.fromarray(picture).save(Path(outdir) / folder / f"{name}.png")
            for folder, archive in archives.items():
                archive.add(scene[folder], (list(label) or None) if folder == "composites" else None)
