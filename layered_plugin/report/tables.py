"""Tables of the report: records of eval.py side by side, models beside baselines, the best of each column marked.

Computes nothing but means and deviations over seeds. Only records of the same pictures and truth share a table.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layered_plugin.evaluation.metrics import mean_and_deviation
from layered_plugin.evaluation.sizes import size_bounds, size_name, sizes_over
from layered_plugin.json_files import fields, list_of, maybe, text
from layered_plugin.model.network_rules import SHARE
from layered_plugin.report.reading import KINDS, ModelRecord, read_lines, sibling_key
from layered_plugin.runs import GENERATED_FILE, REAL_FILE

GENERATED_KEYS = ("teacher", "detector_size", "num", "seed", "trunc")
REAL_KEYS = ("data", "num", "num_detected", "teacher", "eval_size", "polarity")

# Heading, set of pictures, key of the score.
COLUMNS = (("mean IoU", "detected", "iou"), ("mean IoU, all", "all", "iou"), ("mIoU", "detected", "miou"),
           ("Dice", "detected", "dice"), ("accuracy", "detected", "pixel_accuracy"),
           ("max F\N{GREEK SMALL LETTER BETA}", "detected", "max_fbeta"), ("pooled IoU", "detected", "pooled_iou"))

FULL_MASK = "full-image mask"
BASELINES = {"full": FULL_MASK, "box": "centre box", "kmeans": "k-means on color", "otsu": "Otsu", "grabcut": "GrabCut"}


# What the key numbers and the list of commands take from a record.
_SCORES = maybe(fields(dict(iou=SHARE, full_mask_iou=SHARE), others=True))

GENERATED = fields(dict(command=text, detected=_SCORES), others=True)

REAL = fields(dict(command=text, models=list_of(fields(dict(kind=text, detected=_SCORES), others=True))), others=True)


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


class _Scored(NamedTuple):
    """A predictor with its score sets, as ``Tally.result`` has them."""

    name: str
    note: str
    baseline: bool
    sets: dict[str, Any]


def read_generated(folder: Path) -> list[dict[str, Any]]:
    """Records of ``eval.py generated`` in a run folder, oldest first; none if it was not scored.

    Raises:
        UserError: A record is damaged, or lacks what its table shows.
    """
    def check(record: dict[str, Any]) -> dict[str, Any]:
        return record if generated_tables([record]) else {}
    return read_lines(folder / GENERATED_FILE, check, GENERATED)


def read_real(model: ModelRecord) -> list[dict[str, Any]]:
    """Records of ``eval.py real`` of a model, which bear its folder and its `sibling_key`; as `read_generated`."""
    folder = model.folder

    def check(record: dict[str, Any]) -> dict[str, Any]:
        record["models"] = [dict(record["models"][0], folder=str(folder),
                                 siblings=sibling_key(model.about["options"]))]
        return record if real_tables([record]) else {}
    return read_lines(folder / REAL_FILE, check, REAL)


def generated_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """Scores of generated masks, one table per way of judging, the latest first; of equal scorings the last counts."""
    tables = []
    for group in _groups(records, GENERATED_KEYS):
        latest = {record["network"]: record for record in group}
        runs = {network.rpartition("/")[0] for network in latest}
        scored: list[_Scored] = []
        siblings: dict[str, list[_Scored]] = {}
        for network, record in latest.items():
            name = network.rsplit("/", 1 if len(runs) == 1 else 2)
            note = f"mask covers {record['coverage']:.3f} of the picture"
            generator = _Scored("/".join(name[1:]), note, False, record)
            scored += [generator, _full_mask(record, generator.name if len(latest) > 1 else "")]
            siblings.setdefault(name[-1], []).append(generator)
        scored += _means(siblings)
        last = group[-1]
        seen = f"{last['num_detected']} of {last['num']} generated scenes with an object"
        caption = f"{seen}, scored against {teacher_name(last['teacher'])}, at {last['detector_size']} px"
        tables.append(_table(caption, [f"truncation {last['trunc']:g}, seed {last['seed']}", *_fidelity(group)], scored,
                             last["num_detected"] != last["num"]))
    return tables


def real_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """Scores of real pictures' masks, of all models, one table per data set and truth, the latest first; after it the
    IoU by the object's size, if it was scored."""
    tables = []
    for group in _groups(records, REAL_KEYS):
        models, baselines = {}, {}
        siblings: dict[Any, dict[str, _Scored]] = {}
        for record in group:
            for model in record["models"]:
                how = [KINDS.get(model["kind"], model["kind"]), "mirrored too" if record.get("flip") else "",
                       f"{record['refine']} refining steps" if record.get("refine") else "",
                       "pixel by pixel" if record.get("posterior") else "",
                       "kept to a distilled mask" if record.get("prior") else ""]
                note = ", ".join(part for part in how if part)
                models[model["folder"], note] = _Scored(Path(model["folder"]).name, note, False, model)
                siblings.setdefault((model.get("siblings"), note), {})[model["folder"]] = models[model["folder"], note]
            baselines.update(record["baselines"])
        scored = list(models.values())
        means = _means({key: list(members.values()) for key, members in siblings.items() if key[0] is not None})
        baseline_rows = [_Scored(BASELINES.get(name, name), "baseline", True, sets)
                         for name, sets in baselines.items()]
        if "full" not in baselines:
            baseline_rows.append(_full_mask(scored[0].sets, ""))
        last = group[-1]
        notes = [] if last["eval_size"] == "gt" else ["pictures and truth squeezed to the network's square"]
        if last["polarity"] == "oracle":
            notes.append("Object and background swapped where the truth says so: no measure of an unsupervised method.")
        caption = (f"{last['num_detected']} of {last['num']} pictures of {Path(last['data']).name} with an object, "
                   f"scored against {teacher_name(last['teacher'])}")
        scored += means + sorted(baseline_rows, key=lambda row: -_iou(row.sets))
        tables += [_table(caption, notes, scored, last["num_detected"] != last["num"]), *_size_tables(scored)]
    return tables


def teacher_name(teacher: dict[str, Any]) -> str:
    """What stands for the truth, in words."""
    if teacher["kind"] == "masks":
        return f"true masks {Path(teacher['path']).name}"
    if teacher["kind"] == "maskrcnn":
        return f"Mask R-CNN, class {teacher['class_name']}"
    if teacher["kind"] == "onnx":
        return f"ONNX network {Path(teacher['weights']).name}"
    return f"U-Net {Path(teacher['weights']).name}"


def best_real(records: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Of the latest scoring without the help of the truth: its record and its best model; None if there is none."""
    honest = [record for record in records if record["polarity"] != "oracle"]
    candidates = [(record, model) for group in _groups(honest, REAL_KEYS)[:1] for record in group
                  for model in record["models"] if model["detected"] is not None]
    return max(candidates, key=lambda pair: pair[1]["detected"]["iou"], default=None)


def _groups(records: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Records that may be compared, together; the group with the latest record first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        key = json.dumps([record[name] for name in keys], sort_keys=True)
        groups[key] = [*groups.pop(key, []), record]
    return list(reversed(groups.values()))


def _full_mask(sets: dict[str, Any], note: str) -> _Scored:
    """The full-image mask, of which records without that baseline have the IoU alone."""
    full = {which: None if sets[which] is None else dict(iou=sets[which]["full_mask_iou"])
            for which in ("detected", "all")}
    return _Scored(FULL_MASK, note or "everything is object", True, full)


def _means(siblings: Mapping[Any, Sequence[_Scored]]) -> list[_Scored]:
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
            rows.append(_Scored(f"{len(members)} seeds", note, False, sets))
    return rows


def _iou(sets: dict[str, Any]) -> float:
    return float((sets["detected"] or sets["all"])["iou"])


def _fidelity(group: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{record['network'].rsplit('/', 1)[-1]}: FID {scores['fid']:.2f}, KID {scores['kid']:.5f} "
            f"({scores['num_gen']} generated, {scores['num_real']} real pictures)"
            for record in group if (scores := record.get("fidelity"))]


def _table(caption: str, notes: list[str], scored: Sequence[_Scored], with_all: bool) -> Table:
    """Lay scores out; columns that nobody has are left out, and that of all pictures where all hold an object."""
    headings, columns = [], []
    for heading, which, key in COLUMNS:
        column = [_cell(predictor.sets[which], key) for predictor in scored]
        if any(cell.text for cell in column) and (which == "detected" or with_all):
            headings.append(heading)
            columns.append(_mark_best(column))
    rows = [Row(predictor.name, predictor.note, predictor.baseline, [column[idx] for column in columns])
            for idx, predictor in enumerate(scored)]
    return Table(caption, notes, headings, rows)


def _size_tables(scored: Sequence[_Scored]) -> list[Table]:
    """IoU by the object's size, with the bounds that the last of the models has; none if it has none."""
    sized = [(one, bins) for one in scored if (bins := (one.sets["detected"] or {}).get("by_size"))]
    bounds = [size_bounds(bins) for one, bins in sized if not one.baseline]
    if not bounds:
        return []
    rows = [(one, bins) for one, bins in sized if size_bounds(bins) == bounds[-1]]
    used = [idx for idx, part in enumerate(rows[0][1]) if part["num"]]
    columns = [_mark_best([_cell(bins[idx], "iou") for _one, bins in rows]) for idx in used]
    headings = [f"{size_name(rows[0][1][idx])} ({rows[0][1][idx]['num']} pictures)" for idx in used]
    return [Table("Mean IoU by the object's share of the picture", [], headings,
                  [Row(one.name, one.note, one.baseline, list(cells))
                   for (one, _bins), *cells in zip(rows, *columns, strict=True)])]


def _cell(scores: dict[str, Any] | None, key: str) -> Cell:
    if scores is not None and isinstance(scores.get(key), dict):
        return Cell(f"{scores[key]['mean']:.3f}", f"\N{PLUS-MINUS SIGN} {scores[key]['deviation']:.3f}")
    if scores is None or scores.get(key) is None or math.isnan(scores[key]):
        return Cell("")
    interval = scores.get("iou_ci") if key == "iou" else None
    return Cell(f"{scores[key]:.3f}", f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "")


def _mark_best(column: Sequence[Cell]) -> list[Cell]:
    """Mark the largest as shown, ties included, if there is anything to compare."""
    texts = [cell.text for cell in column if cell.text]
    top = max(texts, default="")  # All have three decimals and are at most 1.000.
    return [cell._replace(best=len(texts) > 1 and cell.text == top) for cell in column]
