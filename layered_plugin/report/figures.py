"""Figures of the report: curves of trainings, layer grids over time, sheets of real pictures.

Figures 2 and 4 of the paper.
"""

import base64
import io
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import PIL.Image

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.pictures import PictureSource, to_rgb
from layered_plugin.errors import PictureError, UserError, raising
from layered_plugin.report.charts import Chart, Line, line_chart
from layered_plugin.report.reading import GanRun, ModelRecord, Picture, numbered_pictures, read_lines, read_picture
from layered_plugin.runs import CONTACT_SHEET, MANIFEST
from layered_plugin.segmentation.earlier import pictures_of
from layered_plugin.segmentation.outputs import result_folder

GRIDS_SHOWN = 5  # Layer grids over time, the first and the last among them.
EXAMPLES = 8  # Best and worst segmented pictures.
EXAMPLE_PX = 160

STAGES = {"generated": "generated pictures", "real": "real pictures", "encoder": "real pictures"}
SHARES = {"coverage": "Mask coverage", "kept": "Share of real pictures kept"}  # Not losses.
NO_TERMS = ("step", "seconds", "images_per_sec", *SHARES)

# Title, dashed level out of the loss options, lines: name and quantity.
GAN_CHARTS: tuple[tuple[str, tuple[str, str] | None, dict[str, str]], ...] = (
    ("Loss", None, {"generator": "Loss/G/loss", "discriminator": "Loss/D/loss"}),
    ("Mask coverage", ("costs nothing above", "mask_min"),
     {"coverage": "Layers/coverage", "along the border": "Layers/border",
      "in the middle": "Layers/center"}),
    ("Mask losses", None, {"size": "Loss/mask/size", "binarisation": "Loss/mask/binary",
                           "border": "Loss/mask/border"}),
    ("Layers, share", None, {"binary pixels": "Layers/binarity", "empty masks": "Layers/all_bg",
                             "full masks": "Layers/all_fg"}),
    ("Variety of 500 scenes", None, {"deviation of a mask pixel": "Variety/variation",
                                     "deviation of the area": "Variety/area_deviation"}),
    ("Frechet distance from real pictures", None, {"features learnt on the spot": "Variety/frechet"}),
    ("Discriminator scores", None, {"real": "Loss/scores/real", "generated": "Loss/scores/fake"}),
    ("Augmentation", None, {"probability": "Progress/augment"}))


class SegmentedExample(NamedTuple):
    """One segmented picture: itself, its mask, its reconstruction."""

    name: str
    error: str
    pictures: list[Picture]


class Segmented(NamedTuple):
    """What ``invert.py segment`` left in a folder."""

    folder: str
    num: int
    sheet: Picture | None
    best: list[SegmentedExample]
    worst: list[SegmentedExample]


def gan_charts(gan: GanRun) -> list[Chart]:
    """Losses, masks and speed over the pictures shown; none before the first tick."""
    if not gan.stats:
        return []
    charts = []
    for title, level, names in GAN_CHARTS:
        lines = {name: _line(gan.stats, "Progress/kimg", key) for name, key in names.items()
                 if any(key in row for row in gan.stats)}
        if "Progress/augment" in names.values() and not any(any(y) for _x, y in lines.values()):
            continue  # It is always recorded, and always 0 without ADA.
        if lines:
            height = gan.options["loss_kwargs"].get(level[1]) if level else None
            charts.append(line_chart(title, "kimg", lines, (level[0], height) if level and height else None))
    speed = [row for row in gan.stats if row.get("Timing/sec_per_kimg")]
    if speed:
        pace = [1000 / row["Timing/sec_per_kimg"] for row in speed]
        charts.append(line_chart("Pictures per second", "kimg",
                                 {"throughput": ([row["Progress/kimg"] for row in speed], pace)}))
    return charts


def model_charts(model: ModelRecord) -> list[Chart]:
    """Losses of each stage, then shares and speed; for chunks the loss of each."""
    if model.kind == "chunks":
        lines = {name: _line(rows, "step", "loss") for name, rows in model.stats.items()}
        return [line_chart("Loss of each chunk", "step", lines)] if lines else []
    charts = []
    for stage, rows in model.stats.items():
        terms = [name for name in rows[-1] if name not in NO_TERMS]
        title = f"Loss, {STAGES.get(stage, stage)}"
        if terms:
            charts.append(line_chart(title, "step", {name: _line(rows, "step", name) for name in terms}))
    for name, title in {**SHARES, "images_per_sec": "Pictures per second"}.items():
        lines = {STAGES.get(stage, stage): _line(rows, "step", name) for stage, rows in model.stats.items()
                 if name in rows[-1]}
        if lines:
            charts.append(line_chart(title, "step", lines))
    return charts


def _line(rows: Sequence[dict[str, Any]], x: str, y: str) -> Line:
    known = [row for row in rows if y in row]
    return [row[x] for row in known], [row[y] for row in known]


def layers_over_time(folder: Path) -> list[Picture]:
    """Layer grids of a training run: the first, some between, the last."""
    grids = numbered_pictures(folder, "layers")
    last = len(grids) - 1
    picks = sorted({round(idx * last / (GRIDS_SHOWN - 1)) for idx in range(GRIDS_SHOWN)}) if grids else []
    return [read_picture(path, f"{kimg} kimg", f"Layers of generated scenes after {kimg} thousand pictures, one scene "
                         "per column: background, foreground, mask, cut-out, composite, shifted composite")
            for kimg, path in (grids[pick] for pick in picks)]


def sample_pictures(model: ModelRecord) -> list[Picture]:
    """The first and the last picture sheet that a model's training drew; for chunks those of its first chunk."""
    folder = min(model.folder.glob("chunk-*/"), default=model.folder) if model.kind == "chunks" else model.folder
    sheets = numbered_pictures(folder, "samples")
    of = f" of {folder.name}" if folder != model.folder else ""
    return [read_picture(path, f"Step {step}{of}", f"Pictures and masks drawn at step {step} of the training{of}")
            for step, path in dict(sheets[:1] + sheets[-1:]).items()]


def score_sheets(folder: Path) -> list[Picture]:
    """The sheets of the best and the worst pictures that eval.py left in a model's folder."""
    return [read_picture(folder / f"real-{name}.png", f"The {name} by IoU, which stands above each column",
                         f"Real pictures with the {name} masks, one per column: picture, cut-out, mask, truth")
            for name in ("best", "worst") if (folder / f"real-{name}.png").is_file()]


def read_segmented(folder: Path) -> Segmented:
    """Contact sheet of a segmented folder, and its best and worst pictures by reconstruction error.

    UserError if it is no such folder, or a file is missing or damaged.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise UserError(f"`segmented`: {folder} holds no manifest.jsonl; give the --outdir of invert.py segment "
                        "--format=files")
    entries = read_lines(manifest, _entry)
    known = sorted((entry for entry in entries if entry["error"] is not None), key=lambda entry: entry["error"])
    num = min(EXAMPLES, len(known) // 2)
    sheet = folder / CONTACT_SHEET
    with raising(UserError, f"`segmented`: {folder}", PictureError):
        source = pictures_of(folder) if num > 0 else None
    with nullcontext() if source is None else closing(source):
        best, worst = ([_example(folder, entry, source) for entry in part]
                       for part in (known[:num], known[::-1][:num]))
    return Segmented(
        str(folder), len(entries),
        read_picture(sheet, "Pictures with their cut-outs beneath", "Real pictures, each with its cut-out beneath")
        if sheet.is_file() else None,
        best, worst)


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    file = entry.get("file") or PurePosixPath(entry["name"]).with_suffix(".png")
    error = entry.get("error")
    return dict(name=str(entry["name"]), file=str(file), error=None if error is None else float(error),
                doubtful=bool(entry.get("doubtful")))


def _example(folder: Path, entry: dict[str, Any], source: PictureSource | None) -> SegmentedExample:
    folder = result_folder(folder, entry)
    pictures = []
    with suppress(PictureError):  # It may have gone.
        if source is not None:
            pictures.append(_small(source.open(entry["name"]), f"Picture {entry['name']}"))
    cutout = folder / "cutouts" / entry["file"]
    if not pictures and cutout.is_file():
        pictures.append(_small_file(cutout, f"Cut-out of {entry['name']}"))
    pictures.append(_small_file(folder / "masks" / entry["file"], f"Mask of {entry['name']}"))
    path = folder / "reconstructions" / entry["file"]
    if path.is_file():
        pictures.append(_small_file(path, f"Reconstruction of {entry['name']}"))
    return SegmentedExample(entry["name"], f"{entry['error']:.2f}", pictures)


def _small_file(path: Path, alt: str) -> Picture:
    with raising(UserError, f"{path}: not a readable picture", *UNREADABLE), PIL.Image.open(path) as opened:
        return _small(opened, alt)


def _small(picture: PIL.Image.Image, alt: str) -> Picture:
    """A picture, reduced if it is large."""
    picture = to_rgb(picture)
    picture.thumbnail((EXAMPLE_PX, EXAMPLE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(source, *picture.size, "", alt)
