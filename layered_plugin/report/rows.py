"""Scores laid out as tables of the report: rows with cells, a row for several seeds, the best of a column marked."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from layered_plugin.evaluation.metrics import mean_and_deviation
from layered_plugin.evaluation.sizes import size_bounds, sizes_over

# Heading, set of pictures, key of the score.
COLUMNS = (("mean IoU", "detected", "iou"), ("mean IoU, all", "all", "iou"), ("mIoU", "detected", "miou"),
           ("Dice", "detected", "dice"), ("accuracy", "detected", "pixel_accuracy"),
           ("max F\N{GREEK SMALL LETTER BETA}", "detected", "max_fbeta"), ("pooled IoU", "detected", "pooled_iou"))


class Cell(NamedTuple):
    """One score as it is shown."""

    text: str
    interval: str = ""
    best: bool = False


class Row(NamedTuple):
    """One predictor."""

    name: str
    note: str
    baseline: bool
    cells: list[Cell]


class Table(NamedTuple):
    """Predictors that were scored on the same pictures."""

    caption: str
    notes: list[str]
    headings: list[str]
    rows: list[Row]


class Scored(NamedTuple):
    """A predictor with its score sets, as ``Tally.result`` has them."""

    name: str
    note: str
    baseline: bool
    sets: dict[str, Any]


def seed_means(siblings: Mapping[Any, Sequence[Scored]]) -> list[Scored]:
    """Mean and deviation of runs that differ in the seed alone, a row for each kind of which there are several."""
    rows = []
    for members in siblings.values():
        if len(members) > 1:
            sets: dict[str, Any] = {}
            for which in ("detected", "all"):
                scores = [member.sets[which] for member in members]
                sets[which] = None if None in scores else mean_and_deviation(scores)
            sizes = [(member.sets["detected"] or {}).get("by_size", []) for member in members]
            if sets["detected"] and sizes[0] and len({(*size_bounds(bins),) for bins in sizes}) == 1:
                sets["detected"]["by_size"] = sizes_over(sizes)
            notes = {member.note for member in members}
            note = "mean \N{PLUS-MINUS SIGN} deviation" + (f", {members[0].note}" if len(notes) == 1 else "")
            rows.append(Scored(f"{len(members)} seeds", note, False, sets))
    return rows


def lay_out(caption: str, notes: list[str], scored: Sequence[Scored], with_all: bool) -> Table:
    """Lay scores out; columns that nobody has are left out, and that of all pictures where all hold an object."""
    headings, columns = [], []
    for heading, which, key in COLUMNS:
        column = [cell(predictor.sets[which], key) for predictor in scored]
        if any(score.text for score in column) and (which == "detected" or with_all):
            headings.append(heading)
            columns.append(mark_best(column))
    rows = [Row(predictor.name, predictor.note, predictor.baseline, [column[idx] for column in columns])
            for idx, predictor in enumerate(scored)]
    return Table(caption, notes, headings, rows)


def cell(scores: dict[str, Any] | None, key: str) -> Cell:
    if scores is not None and isinstance(scores.get(key), dict):
        return Cell(f"{scores[key]['mean']:.3f}", f"\N{PLUS-MINUS SIGN} {scores[key]['deviation']:.3f}")
    if scores is None or scores.get(key) is None or math.isnan(scores[key]):
        return Cell("")
    interval = scores.get("iou_ci") if key == "iou" else None
    return Cell(f"{scores[key]:.3f}", f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "")


def mark_best(column: Sequence[Cell]) -> list[Cell]:
    """Mark the largest as shown, ties included, if there is anything to compare."""
    texts = [cell.text for cell in column if cell.text]
    top = max(texts, default="")  # All have three decimals and are at most 1.000.
    return [cell._replace(best=len(texts) > 1 and cell.text == top) for cell in column]
