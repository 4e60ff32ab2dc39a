"""Table 1 and Figure 3 of an ablation study: Markdown, CSV, JSON, PNG; beside the paper's own numbers."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import torch

from layered_plugin.data.pictures import to_uint8
from layered_plugin.evaluation.judge import UNetTeacher
from layered_plugin.evaluation.metrics import mean_and_deviation
from layered_plugin.files import atomic_write
from layered_plugin.grids import picture_rows
from layered_plugin.model.layers import composite
from layered_plugin.model.scenes import draw_layers, seed_codes
from layered_plugin.model.snapshots import load_snapshot

SCENES = 12  # Columns of the figure.
GAP_PX = 12  # Between settings.
COLUMNS = ("mean_iou", "reference_iou", "detected", "coverage", "variation")


class Paper(NamedTuple):
    """A row of the paper's Table 1: LSUN Car at 64x64, detected of 10,000 scenes."""

    title: str
    mean_iou: float
    reference_iou: float
    detected: int


PAPER = {
    "a": Paper("defaults", 0.685, 0.440, 6293),
    "b": Paper("no shift", 0.039, 0.428, 6738),
    "c": Paper("25 % shift", 0.144, 0.434, 6493),
    "d": Paper("background contrast jitter", 0.765, 0.454, 6089),
    "e": Paper("no random crops", 0.264, 0.374, 6339),
    "f": Paper("5 x gamma_1", 0.733, 0.443, 6245),
    "g": Paper("single generator", 0.550, 0.446, 6903),
}


def table_rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per setting: mean and population deviation over its seeds.

    Args:
        results: Of runs (`judged_runs`), at least one; those of a setting in the order of their seeds.

    Returns:
        `setting`, `title`, `seeds`, `each` (mean IoU per seed, None where the judge saw no object); `mean_iou`,
        `reference_iou`, `detected`, `coverage` and `variation` (of outlines, as shares of what true masks reach) as
        dicts of `mean` and `deviation`; `paper`; and `shown`, the seed with the median mean IoU (the lower of two).
        The means of the IoUs leave out seeds in which nothing was detected; None if that is all of them.
    """
    rows = []
    for setting in dict.fromkeys(result["setting"] for result in results):
        own = [result for result in results if result["setting"] == setting]
        seen = [dict(mean_iou=run["mean_iou_detected"], reference_iou=run["reference_iou"])
                for run in own if run["mean_iou_detected"] is not None]
        means = mean_and_deviation(seen) if seen else dict(mean_iou=None, reference_iou=None)
        ranked = sorted(own, key=lambda run: -1.0 if run["mean_iou_detected"] is None else run["mean_iou_detected"])
        rows.append(dict(setting=setting, title=PAPER[setting].title, seeds=[run["train_seed"] for run in own],
                         each=[run["mean_iou_detected"] for run in own], **means,
                         **mean_and_deviation([dict(detected=run["detected"], coverage=run["shapes"]["coverage"],
                                                    variation=run["shapes"]["variation"]) for run in own]),
                         shown=ranked[(len(ranked) - 1) // 2]["train_seed"], paper=PAPER[setting]._asdict()))
    return rows


def markdown(rows: Sequence[dict[str, Any]], record: dict[str, Any]) -> str:
    """The table for people, the base and the command beneath."""
    lines = ["| setting | seeds | mean IoU | each seed | coverage | variation | reference mean IoU "
             f"| detected of {record['num']:,} | mean IoU in the paper |",
             "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        several = len(row["seeds"]) > 1
        each = ", ".join("-" if value is None else f"{value:.3f}" for value in row["each"])
        cells = [f"({row['setting']}) {row['title']}", ", ".join(map(str, row["seeds"])),
                 _spread(row["mean_iou"], 3, several), each, _spread(row["coverage"], 3, several),
                 _spread(row["variation"], 2, several), _spread(row["reference_iou"], 3, several),
                 _spread(row["detected"], 0, several), f"{row['paper']['mean_iou']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    weights = record["weights"]
    return "\n".join([
        *lines, "",
        "Mean +- deviation over seeds; coverage and variation of outlines as shares of what true masks reach. "
        f"Data: {record['data']}, {record['kimg']:g} kimg a run. Base: {record['base']}, "
        f"the border term has weight {weights['border']:g}, the mask size gamma_1 = {weights['size']:g} "
        f"((f): {5 * weights['size']:g}). The paper: LSUN Car at 64x64, Mask R-CNN in the judge's place.",
        "", "```bash", record["command"], "```", ""])


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """One line per setting, nothing where there is no number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["setting", "title", "seeds", *(f"{name}{part}" for name in COLUMNS for part in ("", "_deviation")),
                     *(f"paper_{name}" for name in Paper._fields[1:])])
    for row in rows:
        numbers = [(row[name] or {}).get(part) for name in COLUMNS for part in ("mean", "deviation")]
        writer.writerow([row["setting"], row["title"], len(row["seeds"]), *numbers,
                         *(row["paper"][name] for name in Paper._fields[1:])])
    return file.getvalue()


def write_table(results: Sequence[dict[str, Any]], record: dict[str, Any], outdir: Path) -> dict[str, Any]:
    """Write table1.md, table1.csv and table1.json.

    Args:
        results: See ``table_rows``.
        record: What the runs have in common: num, data, kimg, base, weights, command, ...
        outdir: Existing folder.

    Returns:
        The record of table1.json: the rows, what was given, and the results of the runs.
    """
    rows = table_rows(results)
    full = dict(rows=rows, **record, results=list(results))
    for name, text in (("table1.md", markdown(rows, record)), ("table1.csv", csv_text(rows)),
                       ("table1.json", json.dumps(full, indent=2))):
        with atomic_write(outdir / name) as file:
            file.write(text.encode())
    return full


def draw_figure(rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], judge: str) -> PIL.Image.Image:
    """Figure 3: for each setting composites, their masks, and the judge's; one scene per column, the first seeds.

    Args:
        rows: Of ``table_rows``; the run with the seed `shown` is drawn.
        results: Of the runs.
        judge: File of `eval.py judge`.

    Raises:
        CheckpointError: A network of the results can't be read.
        TeacherError: The judge can't be read.
    """
    networks = {(run["setting"], run["train_seed"]): run["network"] for run in results}
    sheets = [picture_rows(_scenes(f"({row['setting']})", networks[row["setting"], row["shown"]], judge))
              for row in rows]
    step = sheets[0].height + GAP_PX
    figure = PIL.Image.new("RGB", (sheets[0].width, step * len(sheets) - GAP_PX), "white")
    for idx, sheet in enumerate(sheets):
        figure.paste(sheet, (0, idx * step))
    return figure


def _scenes(label: str, network: str, judge: str) -> dict[str, torch.Tensor]:
    G = load_snapshot(network)["G_ema"]
    layers = draw_layers(G, seed_codes(G, range(SCENES)))
    img = composite(layers)
    pictures = list(to_uint8(img).permute(0, 2, 3, 1).cpu().numpy())
    found = UNetTeacher(judge)(pictures, [f"seed{seed:04d}" for seed in range(SCENES)])
    judged = [torch.zeros(img.shape[2:]) if mask is None else torch.from_numpy(mask).float() for mask in found]
    return {f"{label} picture": img, "mask": layers.mask * 2 - 1, "judge's mask": torch.stack(judged)[:, None] * 2 - 1}


def _spread(value: dict[str, float] | None, digits: int, several: bool) -> str:
    if value is None:
        return "-"
    deviation = f" +- {value['deviation']:.{digits}f}" if several else ""
    return f"{value['mean']:.{digits}f}{deviation}"
