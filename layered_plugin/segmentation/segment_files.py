"""Segment a folder, zip or file of pictures to files: masks, cut-outs, layers, contact sheet, manifest.

Streams: what is held in memory does not grow with the number of pictures, but for their names. The work of
``invert.py segment``.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from layered_plugin.data.pictures import PictureSource, full_batches, to_rgb
from layered_plugin.errors import ModelError, PictureError
from layered_plugin.files import cut_torn_line, write_json
from layered_plugin.grids import save_picture
from layered_plugin.progress import progress
from layered_plugin.runs import CONTACT_SHEET, DOUBTFUL, MANIFEST
from layered_plugin.segmentation.edges import foreground_colors, is_enlarged
from layered_plugin.segmentation.full_size import Segmentation
from layered_plugin.segmentation.segmenter import PLAIN, Refinement, Segmenter

SETTINGS = "segment.json"

SHEET_PICTURES, SHEET_COLUMNS, CELL_PX = 48, 8, 96

SHEET_GROUND = (208, 208, 208)  # Behind cut-outs.


class Outcome(NamedTuple):
    """How many pictures were segmented now and before, and what is wrong with the others, by name."""

    done: int
    skipped: int
    failed: dict[str, str]


def segment_files(segmenter: Segmenter, source: PictureSource, outdir: str | os.PathLike[str], *, batch: int = 64,
                  threshold: float = 0.5, soft: bool = False, min_confidence: float = 0.0,
                  refinement: Refinement = PLAIN) -> Outcome:
    """Segment every picture whose name the manifest does not list yet.

    Args:
        segmenter: A loaded model.
        source: Pictures.
        outdir: Where the files go; made if missing.
        batch: Pictures at a time, at most; fewer if they are large.
        threshold: Opacity from which a pixel counts as object, in (0, 1).
        soft: Write opacities instead of 0 and 255?
        min_confidence: Results of pictures with less go to a folder of their own, doubtful/.
        refinement: What is done beyond one pass through the network.

    Returns:
        What happened; a picture that can't be read or matched is left out and named.

    Raises:
        ModelError: None of the pictures can be segmented by this model, or the folder holds results of another call.
        OSError: A file can't be written.
        PictureError: The manifest of an earlier call is damaged.
    """
    outdir = Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    finished = read_manifest(outdir / MANIFEST)
    settings = dict(model=str(segmenter.folder.resolve()), threshold=threshold, soft=soft,
                    min_confidence=min_confidence, **refinement.record())
    _check_settings(outdir / SETTINGS, settings, bool(finished))
    targets = target_names(source.names)
    todo = [name for name in source.names if name not in finished]
    failed: dict[str, str] = {}
    done = 0
    results = _results(segmenter, source, todo, targets, failed, batch, refinement)
    with open(outdir / MANIFEST, "a") as manifest:
        for named_result in progress(results, len(todo), "Pictures"):
            if named_result is None:
                continue
            name, picture, result = named_result
            mask = result.mask if soft else (result.mask >= threshold).astype(np.float32)
            estimate = refinement.sharp and is_enlarged(picture.size, segmenter.resolution)
            entry = dict(name=name, file=targets[name], width=picture.width, height=picture.height,
                         coverage=round(float((result.mask >= threshold).mean()), 4),
                         confidence=round(result.confidence, 4))
            if result.confidence < min_confidence:
                entry["doubtful"] = True
            _write(result_folder(outdir, entry), targets[name], picture, result, mask, estimate)
            if result.error is not None:
                entry["error"] = round(result.error, 3)
            manifest.write(json.dumps(entry) + "\n")
            manifest.flush()
            done += 1
    if done == 0 and failed and not finished:
        raise ModelError(next(iter(failed.values())))
    for folder in (outdir, outdir / DOUBTFUL):
        write_contact_sheet(folder, outdir / MANIFEST)
    return Outcome(done, len(source.names) - len(todo), failed)


def result_folder(outdir: Path, entry: Mapping[str, Any]) -> Path:
    """Where masks/, cutouts/ and so on of a picture are, by its entry in the manifest."""
    return outdir / DOUBTFUL if entry.get("doubtful") else outdir


def say_doubtful(outdir: str | os.PathLike[str]) -> str:
    """How many results of a folder are doubtful, for the end of a line; nothing if none are."""
    num = sum(bool(entry.get("doubtful")) for entry in read_manifest(Path(outdir) / MANIFEST).values())
    return f", {num} in {DOUBTFUL}/" if num else ""


def _check_settings(path: Path, settings: dict[str, Any], has_results: bool) -> None:
    """Refuse to mix results of different calls in one folder; the settings of the first with results are kept there."""
    if not has_results or not path.is_file():
        write_json(path, settings)
        return
    try:
        earlier = json.loads(path.read_text())
        differing = [name for name in settings if earlier[name] != settings[name]]
    except (ValueError, KeyError, TypeError) as err:
        raise PictureError(f"{path}: damaged; choose another `outdir`, or remove this one") from err
    if differing:
        name = differing[0]
        raise ModelError(f"{path.parent}: holds results with {name} = {earlier[name]}, not {settings[name]}; choose "
                         "another `outdir`")


def target_names(names: list[str]) -> dict[str, str]:
    """File name of each picture's results: its own with .png, and its whole name before that if two would collide."""
    targets = {name: str(PurePosixPath(name).with_suffix(".png")) for name in names}
    while True:  # A whole name may meet another's file in its turn: a.jpg.png beside a.jpg and a.png.
        users = Counter(targets.values())
        clash = [name for name, target in targets.items() if users[target] > 1 and target != f"{name}.png"]
        if not clash:
            return targets
        targets.update({name: f"{name}.png" for name in clash})


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Entries of a manifest by picture name; an unfinished last line is dropped from the file.

    Raises:
        PictureError: Another line is damaged.
    """
    if not path.is_file():
        return {}
    cut_torn_line(path)  # The last call was killed while it wrote.
    text = path.read_text(errors="replace")
    entries = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            entry = json.loads(line)
            entries[entry["name"]] = dict(entry, file=str(entry["file"]))
        except (ValueError, KeyError, TypeError) as err:
            raise PictureError(f"{path}: line {number} is damaged; remove the file to start over") from err
    return entries


def _results(segmenter: Segmenter, source: PictureSource, names: list[str], targets: dict[str, str],
             failed: dict[str, str], batch: int, refinement: Refinement
             ) -> Iterator[tuple[str, PIL.Image.Image, Segmentation] | None]:
    """Pictures with their results, as many at a time as fit into memory; None for each that `failed` now names."""
    def opened() -> Iterator[tuple[str, PIL.Image.Image | None]]:
        for name in names:
            try:
                yield name, _open(segmenter, source, name, targets[name])
            except (PictureError, ModelError) as err:
                failed[name] = str(err)
                yield name, None

    for group in full_batches(opened(), lambda item: item[1].width * item[1].height if item[1] else 0, batch):
        readable = [(name, picture) for name, picture in group if picture is not None]
        yield from [None] * (len(group) - len(readable))
        results = segmenter([picture for _, picture in readable], [name for name, _ in readable], refinement)
        yield from ((name, picture, result) for (name, picture), result in zip(readable, results, strict=True))


def _open(segmenter: Segmenter, source: PictureSource, name: str, target: str) -> PIL.Image.Image:
    path = PurePosixPath(target)
    if path.is_absolute() or ".." in path.parts:  # A zip may hold any name.
        raise PictureError(f"{source.path}: {name} leads out of the folder")
    if not segmenter.knows(name):
        raise ModelError(segmenter.unknown(name))
    return to_rgb(source.open(name))


def _write(outdir: Path, target: str, picture: PIL.Image.Image, result: Segmentation, mask: np.ndarray,
           estimate: bool) -> None:
    """Write all files of a picture; `estimate`: of a cut-out with the object's own colors."""
    alpha = PIL.Image.fromarray((mask * 255).round().astype(np.uint8))
    cutout = PIL.Image.fromarray(foreground_colors(np.asarray(picture), result.mask)) if estimate else picture.copy()
    cutout.putalpha(alpha)
    parts = dict(masks=alpha, cutouts=cutout)
    for folder, pixels in dict(backgrounds=result.bg, foregrounds=result.fg, reconstructions=result.composite).items():
        if pixels is not None:
            parts[folder] = PIL.Image.fromarray(pixels)
    for folder, part in parts.items():
        path = outdir / folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        part.save(path)  # Whole files are those that the manifest lists.


def write_contact_sheet(outdir: Path, manifest: Path) -> None:
    """Draw the first pictures with cut-outs in a folder, these beneath, as contact-sheet.png."""
    listed = read_manifest(manifest).values()
    with_cutout = (entry for entry in listed if (outdir / "cutouts" / entry["file"]).is_file())  # A user may tidy up.
    entries = list(itertools.islice(with_cutout, SHEET_PICTURES))
    rows = -(-len(entries) // SHEET_COLUMNS)
    if rows == 0:
        return
    sheet = PIL.Image.new("RGB", (min(len(entries), SHEET_COLUMNS) * CELL_PX, rows * 2 * CELL_PX), "white")
    for idx, entry in enumerate(entries):
        left, top = idx % SHEET_COLUMNS * CELL_PX, idx // SHEET_COLUMNS * 2 * CELL_PX
        cutout = PIL.Image.open(outdir / "cutouts" / entry["file"])
        enlarge = PIL.Image.Resampling.NEAREST if max(cutout.size) < CELL_PX else PIL.Image.Resampling.LANCZOS
        scale = CELL_PX / max(cutout.size)
        size = (max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale)))
        picture = cutout.convert("RGB").resize(size, enlarge)  # A cut-out keeps the colors that it hides.
        small = cutout.resize(size, enlarge)
        sheet.paste(picture, (left, top))
        ground = PIL.Image.new("RGB", size, SHEET_GROUND)
        ground.paste(small, mask=small.getchannel("A"))
        sheet.paste(ground, (left, top + CELL_PX))
    save_picture(sheet, outdir / CONTACT_SHEET)
