"""Tables of the report: records of eval.py side by side, models beside baselines, the best of each column marked.

Computes nothing but means and deviations over seeds. Only records of the same pictures and truth share a table.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layered_plugin.evaluation.metrics import mean_and_deviation
from layered_plugin.evaluation.sizes import size_bounds, size_name
from layered_plugin.json_files import fields, list_of, maybe, number, text
from layered_plugin.model.network_rules import SHARE
from layered_plugin.report.reading import KINDS, ModelRecord, read_lines, sibling_key
from layered_plugin.report.rows import Cell, Row, Scored, Table, cell, lay_out, mark_best, seed_means
from layered_plugin.runs import GENERATED_FILE, REAL_FILE

GENERATED_KEYS = ("teacher", "detector_size", "num", "seed", "trunc")
REAL_KEYS = ("data", "num", "num_detected", "teacher", "eval_size", "polarity")

FULL_MASK = "full-image mask"
BASELINES = {"full": FULL_MASK, "box": "centre box", "kmeans": "k-means on color", "otsu": "Otsu", "grabcut": "GrabCut"}

# Heading, and key of the share.
OUTLINES = (("coverage", "coverage"), ("precision", "precision"), ("variation", "variation"), ("area", "area"),
            ("area deviation", "area_deviation"))

OUTLINES_NOTE = ("Shares of what real masks reach among themselves, the nearer to 1 the better. Frechet distance of "
                 "pictures: the smaller the better.")

# What the key numbers and the list of commands take from a record.
_SCORES = maybe(fields(dict(iou=SHARE, full_mask_iou=SHARE), others=True))

_OUTLINES = fields({key: number(0) for _heading, key in OUTLINES}, others=True)
_SHARES = fields({key: maybe(number(0)) for _heading, key in OUTLINES}, others=True)
_VARIETY = fields(dict(shapes=fields(dict(generated=_OUTLINES, real=_OUTLINES, share=_SHARES), others=True),
                       frechet=number(), frechet_floor=number(), num_real=number(0),
                       data=text, masks=text), others=True)

GENERATED = fields(dict(command=text, detected=_SCORES), dict(variety=_VARIETY), others=True)

REAL = fields(dict(command=text, models=list_of(fields(dict(kind=text, detected=_SCORES), others=True))), others=True)


def read_generated(folder: Path) -> list[dict[str, Any]]:
    """Records of ``eval.py generated`` in a run folder, oldest first; none if it was not scored.

    UserError if a record is damaged, or lacks what its table shows.
    """
    def check(record: dict[str, Any]) -> dict[str, Any]:
        return record if generated_tables([record]) else {}
    return read_lines(folder / GENERATED_FILE, check, GENERATED)


def read_real(model: ModelRecord) -> list[dict[str, Any]]:
    """Records of ``eval.py real`` of a model, which bear its folder and its `sibling_key`; as `read_generated`."""
    folder = model.folder

    def check(record: dict[str, Any]) -> dict[str, Any]:
        record["models"] = [dict(record["models"][0], folder=str(folder), siblings=sibling_key(model.about["options"]))]
        return record if real_tables([record]) else {}
    return read_lines(folder / REAL_FILE, check, REAL)


def generated_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """Scores of generated masks, one table per way of judging, the latest first; of equal scorings the last counts.
    After each the outlines beside real ones, if they were compared."""
    tables = []
    for group in _groups(records, GENERATED_KEYS):
        latest = {record["network"]: record for record in group}
        names = _network_names(latest)
        scored: list[Scored] = []
        siblings: dict[str, list[Scored]] = {}
        for network, record in latest.items():
            note = f"mask covers {record['coverage']:.3f} of the picture"
            generator = Scored(names[network], note, False, record)
            scored += [generator, _full_mask(record, generator.name if len(latest) > 1 else "")]
            siblings.setdefault(network.rpartition("/")[2], []).append(generator)
        scored += seed_means(siblings)
        last = group[-1]
        seen = f"{last['num_detected']} of {last['num']} generated scenes with an object"
        caption = f"{seen}, scored against {teacher_name(last['teacher'])}, at {last['detector_size']} px"
        notes = [f"truncation {last['trunc']:g}, seed {last['seed']}", *_fidelity(group)]
        tables += [lay_out(caption, notes, scored, last["num_detected"] != last["num"]), *_outline_tables(group)]
    return tables


def real_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """Scores of real pictures' masks, of all models, one table per data set and truth, the latest first; after it the
    IoU by the object's size, if it was scored."""
    tables = []
    for group in _groups(records, REAL_KEYS):
        models, baselines = {}, {}
        siblings: dict[Any, dict[str, Scored]] = {}
        for record in group:
            for model in record["models"]:
                how = [KINDS.get(model["kind"], model["kind"]), "mirrored too" if record.get("flip") else "",
                       f"{record['refine']} refining steps" if record.get("refine") else "",
                       "pixel by pixel" if record.get("posterior") else "",
                       "kept to a distilled mask" if record.get("prior") else ""]
                note = ", ".join(part for part in how if part)
                models[model["folder"], note] = Scored(Path(model["folder"]).name, note, False, model)
                siblings.setdefault((model.get("siblings"), note), {})[model["folder"]] = models[model["folder"], note]
            baselines.update(record["baselines"])
        scored = list(models.values())
        means = seed_means({key: list(members.values()) for key, members in siblings.items() if key[0] is not None})
        baseline_rows = [Scored(BASELINES.get(name, name), "baseline", True, sets) for name, sets in baselines.items()]
        if "full" not in baselines:
            baseline_rows.append(_full_mask(scored[0].sets, ""))
        last = group[-1]
        notes = [] if last["eval_size"] == "gt" else ["pictures and truth squeezed to the network's square"]
        if last.get("num_left_out"):
            notes.append(f"{last['num_left_out']} pictures without a mask left out")
        if last["polarity"] == "oracle":
            notes.append("Object and background swapped where the truth says so: no measure of an unsupervised method.")
        caption = (f"{last['num_detected']} of {last['num']} pictures of {Path(last['data']).name} with an object, "
                   f"scored against {teacher_name(last['teacher'])}")
        scored += means + sorted(baseline_rows, key=lambda row: -_iou(row.sets))
        tables += [lay_out(caption, notes, scored, last["num_detected"] != last["num"]), *_size_tables(scored)]
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


def _full_mask(sets: dict[str, Any], note: str) -> Scored:
    """The full-image mask, of which records without that baseline have the IoU alone."""
    full = {which: None if sets[which] is None else dict(iou=sets[which]["full_mask_iou"])
            for which in ("detected", "all")}
    return Scored(FULL_MASK, note or "everything is object", True, full)


def _network_names(networks: Iterable[str]) -> dict[str, str]:
    """What to call each: its file, with its run folder where there are several."""
    runs = {network.rpartition("/")[0] for network in networks}
    return {network: "/".join(network.rsplit("/", 1 if len(runs) == 1 else 2)[1:]) for network in networks}


def _iou(sets: dict[str, Any]) -> float:
    return float((sets["detected"] or sets["all"])["iou"])


def _fidelity(group: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{record['network'].rsplit('/', 1)[-1]}: FID {scores['fid']:.2f}, KID {scores['kid']:.5f} "
            f"({scores['num_gen']} generated, {scores['num_real']} real pictures)"
            for record in group if (scores := record.get("fidelity"))]


def _outline_tables(group: Sequence[dict[str, Any]]) -> list[Table]:
    """Outlines of generated masks as shares of what real masks reach among themselves, one table per set of real ones;
    none if they were not compared."""
    tables = []
    compared = [dict(record, against=[record["variety"][key] for key in ("data", "masks")])
                for record in group if "variety" in record]
    for same in _groups(compared, ("against",)):
        latest = {record["network"]: record["variety"] for record in same}
        names = _network_names(latest)
        rows: list[Row] = []
        siblings: dict[str, list[dict[str, Any]]] = {}
        for network, variety in latest.items():
            found, real, share = (variety["shapes"][side] for side in ("generated", "real", "share"))
            cells = [Cell("" if share[key] is None else f"{share[key]:.3f}", f"{found[key]:.3f} of {real[key]:.3f}")
                     for _heading, key in OUTLINES]
            distance = Cell(f"{variety['frechet']:.2f}", f"real {variety['frechet_floor']:.2f}")
            rows.append(Row(names[network], f"{variety['num_real']} real pictures", False, [*cells, distance]))
            siblings.setdefault(network.rpartition("/")[2], []).append(dict(share, frechet=variety["frechet"]))
        rows += [_outline_mean(members) for members in siblings.values() if len(members) > 1]
        data, masks = same[-1]["against"]
        truth = teacher_name(same[-1]["teacher"]) if masks == "teacher" else Path(masks).name
        caption = f"Outlines of generated masks beside those of {Path(data).name}, whose masks are by {truth}"
        tables.append(Table(caption, [OUTLINES_NOTE], [*(heading for heading, _key in OUTLINES), "Frechet distance"],
                            rows))
    return tables


def _outline_mean(members: Sequence[Mapping[str, Any]]) -> Row:
    """A row for runs that differ in the seed alone."""
    over = mean_and_deviation(members)
    cells = [cell(over, key) for _heading, key in OUTLINES]
    distance = over["frechet"]
    cells.append(Cell(f"{distance['mean']:.2f}", f"\N{PLUS-MINUS SIGN} {distance['deviation']:.2f}"))
    return Row(f"{len(members)} seeds", "mean \N{PLUS-MINUS SIGN} deviation", False, cells)


def _size_tables(scored: Sequence[Scored]) -> list[Table]:
    """IoU by the object's size, with the bounds that the last of the models has; none if it has none."""
    sized = [(one, bins) for one in scored if (bins := (one.sets["detected"] or {}).get("by_size"))]
    bounds = [size_bounds(bins) for one, bins in sized if not one.baseline]
    if not bounds:
        return []
    rows = [(one, bins) for one, bins in sized if size_bounds(bins) == bounds[-1]]
    used = [idx for idx, part in enumerate(rows[0][1]) if part["num"]]
    columns = [mark_best([cell(bins[idx], "iou") for _one, bins in rows]) for idx in used]
    headings = [f"{size_name(rows[0][1][idx])} ({rows[0][1][idx]['num']} pictures)" for idx in used]
    return [Table("Mean IoU by the object's share of the picture", [], headings,
                  [Row(one.name, one.note, one.baseline, list(cells))
                   for (one, _bins), *cells in zip(rows, *columns, strict=True)])]
