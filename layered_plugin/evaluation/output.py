"""What eval.py leaves behind: the table for people, sheets of best and worst pictures, the record of a run."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from layered_plugin.data.masks import THRESHOLD
from layered_plugin.evaluation.scoring import Example
from layered_plugin.evaluation.sizes import size_name
from layered_plugin.files import append_line
from layered_plugin.grids import GAP_PX, NAMES_PX, save_picture

CELL_PX = 108  # Three times the 36 pixels of the built-in data.

CAPTION_PX = 20

SHEET_ROWS = ("picture", "cut-out", "mask", "truth")

# Columns of the table: heading, set of pictures, key.
COLUMNS = (("IoU, detected", "detected", "iou"), ("IoU, all", "all", "iou"), ("mIoU", "detected", "miou"),
           ("Dice", "detected", "dice"), ("accuracy", "detected", "pixel_accuracy"),
           ("max F", "detected", "max_fbeta"), ("edge F", "detected", "boundary_f"))


def check_writable(folder: Path) -> None:
    """Fail before hours of work rather than after: OSError if nothing can be written there."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def append_record(folder: Path, name: str, record: Mapping[str, Any]) -> None:
    """Add one line of JSON to a file of the run folder, as upstream's calc_metrics does."""
    append_line(folder / name, json.dumps(record))


def score_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Scores side by side, the first column of IoU with its confidence interval, the full-image mask below.

    Args:
        rows: Name and score sets (``Tally.result``) of each predictor, at least one, all of the same pictures.
    """
    lines = [["", *(heading for heading, _set, _key in COLUMNS)]]
    for name, sets in rows:
        cells = [_cell(sets[which], key) for _heading, which, key in COLUMNS]
        if sets["detected"] is not None:
            cells[0] += " [{:.3f}, {:.3f}]".format(*sets["detected"]["iou_ci"])
        lines.append([name, *cells])
    full = [_cell(rows[0][1][which], "full_mask_iou") for which in ("detected", "all")]
    lines.append(["full-image mask", *full, *[""] * (len(COLUMNS) - 2)])
    return _aligned(lines)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells of lines in columns."""
    widths = [max(len(line[idx]) for line in lines) for idx in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)


def real_table(record: Mapping[str, Any], names: Sequence[str]) -> str:
    """A record of ``eval.py real`` for people; the names are those of its models."""
    rows = [*zip(names, record["models"], strict=True), *record["baselines"].items()]
    lines = [f"{record['num_detected']} of {record['num']} pictures with an object", score_table(rows)]
    if record["sizes"] and record["num_detected"]:
        lines.append(size_table([(name, sets["detected"]) for name, sets in rows]))
    if record["polarity"] == "oracle":
        lines.append("Polarity chosen by the truth: no measure of an unsupervised method")
    for name, model in zip(names, record["models"], strict=True):
        if (correlation := model["confidence"]["spearman"]) is not None:
            lines.append(f"confidence of {name}: mean {model['confidence']['mean']:.3f}, rank correlation with IoU "
                         f"{correlation:.3f}")
    if "over_models" in record:
        lines.append(spread_line(record["over_models"], len(names), "models"))
    return "\n".join(lines)


def size_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """IoU by the object's share of the picture, with its interval; sizes that no picture has are left out.

    Args:
        rows: Name and scores (``MaskEvaluation.result``) of each predictor, at least one, all of the same pictures.
    """
    used = [idx for idx, entry in enumerate(rows[0][1]["by_size"]) if entry["num"]]
    heads = [rows[0][1]["by_size"][idx] for idx in used]
    lines = [["IoU by the object's share", *(f"{size_name(entry)} ({entry['num']})" for entry in heads)]]
    for name, scores in rows:
        cells = [scores["by_size"][idx] for idx in used]
        lines.append([name, *("{:.3f} [{:.3f}, {:.3f}]".format(cell["iou"], *cell["iou_ci"]) for cell in cells)])
    return _aligned(lines)


def spread_line(over: Mapping[str, Any], num: int, kind: str) -> str:
    """Mean and deviation of the IoU over so many models or networks."""
    if not over["detected"]:
        return f"over {num} {kind}: no object was seen"
    iou = over["detected"]["iou"]
    return f"over {num} {kind}: IoU {iou['mean']:.3f} +- {iou['deviation']:.3f}"


def variety_table(variety: Mapping[str, Any]) -> str:
    """Outlines of generated masks beside those of real ones (``variety.score_variety``), and the Frechet distance."""
    shapes = variety["shapes"]
    rows = [["outlines", *(name.replace("_", " ") for name in shapes["generated"])],
            *([side, *(f"{value:.3f}" for value in shapes[side].values())] for side in ("generated", "real")),
            ["share", *("-" if value is None else f"{value:.3f}" for value in shapes["share"].values())]]
    return "\n".join([_aligned(rows), f"Frechet distance of pictures {variety['frechet']:.2f} (real from real "
                      f"{variety['frechet_floor']:.2f})"])


def _cell(scores: Mapping[str, Any] | None, key: str) -> str:
    return "-" if scores is None else f"{scores[key]:.3f}"


def write_sheet(examples: Sequence[Example], path: Path) -> None:
    """Draw pictures with their masks as PNG, one per column, IoU on top, rows as ``SHEET_ROWS``; write it whole."""
    width = NAMES_PX + len(examples) * (CELL_PX + GAP_PX)
    sheet = PIL.Image.new("RGB", (width, CAPTION_PX + len(SHEET_ROWS) * (CELL_PX + GAP_PX)), "white")
    draw = PIL.ImageDraw.Draw(sheet)
    font = PIL.ImageFont.load_default(size=14)
    draw.text((4, CAPTION_PX // 2), "IoU", fill="black", font=font, anchor="lm")
    for idx, name in enumerate(SHEET_ROWS):
        draw.text((4, CAPTION_PX + idx * (CELL_PX + GAP_PX) + CELL_PX // 2), name, fill="black", font=font, anchor="lm")
    for column, example in enumerate(examples):
        left = NAMES_PX + column * (CELL_PX + GAP_PX)
        draw.text((left + CELL_PX // 2, CAPTION_PX // 2), f"{example.iou:.3f}", fill="black", font=font, anchor="mm")
        for row, cell in enumerate(_cells(example)):
            top = CAPTION_PX + row * (CELL_PX + GAP_PX)
            sheet.paste(cell, (left + (CELL_PX - cell.width) // 2, top + (CELL_PX - cell.height) // 2))
    save_picture(sheet, path)


def _cells(example: Example) -> list[PIL.Image.Image]:
    """The rows of one column, fitted into cells; small pictures are enlarged by a whole factor, unsmoothed."""
    pred = example.mask >= THRESHOLD
    cutout = np.where(pred[:, :, None], example.picture, np.uint8(255))
    arrays = [example.picture, cutout, (example.mask * 255).round().astype(np.uint8),
              example.truth.astype(np.uint8) * 255]
    cells = []
    for array in arrays:
        cell = PIL.Image.fromarray(array).convert("RGB")
        factor = CELL_PX // max(cell.size)
        if factor >= 1:
            cell = cell.resize((cell.width * factor, cell.height * factor), PIL.Image.Resampling.NEAREST)
        else:
            cell.thumbnail((CELL_PX, CELL_PX))
        cells.append(cell)
    return cells
