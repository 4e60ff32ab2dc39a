"""What the report says in words and numbers: its title and key numbers, how a generator or a model was trained."""

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import dnnlib

from layered_plugin.report.reading import KINDS, GanRun, ModelRecord
from layered_plugin.report.tables import best_real
from layered_plugin.runs import FOUND

Fact = tuple[str, str]  # Name and value.


class Card(NamedTuple):
    """A key number."""

    label: str
    value: str
    note: str


def title(gan: GanRun | None, models: Sequence[ModelRecord]) -> str:
    """Name of the data, or of the run if it has none."""
    path = gan.options["training_set_kwargs"].get("path") if gan else models[0].about["options"].get("data")
    return Path(path).stem if path else (gan or models[0]).folder.name


def lead(gan: GanRun) -> str:
    """What was trained, in a sentence or two."""
    data, px = gan.options["training_set_kwargs"], gan.options["resolution"]
    num = f"{data['max_size']:,} " if isinstance(data.get("max_size"), int) else ""
    classes = " with labels of classes" if data.get("use_labels") else ""
    text = f"A generator of layers, trained on {num}"
    if gan.options.get("masks_path"):
        text += (f"pictures{classes} at {px} x {px} pixels, but for those without a mask in "
                 f"{gan.options['masks_path']}; its discriminator was shown each picture with its mask.")
    else:
        text += (f"{'' if classes else 'unlabelled '}pictures{classes} at {px} x {px} pixels; nobody told it what an "
                 "object is.")
    if gan.options.get("found") and (gan.folder / FOUND).is_dir():
        text += (f" After {gan.options['found']['kimg']:g} kimg a segmenter distilled from it found masks of the "
                 "pictures, which its discriminator was shown from there on.")
    if not gan.stats:
        text += " The training has no results yet."
    elif round(gan.stats[-1]["Progress/kimg"], 3) < gan.options["total_kimg"]:
        text += f" The training is not at its end: it is at {_kimg(gan)} of {gan.options['total_kimg']:g} kimg."
    return text


def _kimg(gan: GanRun) -> str:
    return f"{round(gan.stats[-1]['Progress/kimg'], 1):g}"


def key_numbers(gan: GanRun | None, generated: Sequence[dict[str, Any]], real: Sequence[dict[str, Any]]) -> list[Card]:
    """The few numbers on top; those of scores are of the latest scoring."""
    cards = []
    best = best_real(real)
    if best is not None:
        record, model = best
        kind = KINDS.get(model["kind"], model["kind"])
        cards.append(Card("mean IoU, real", f"{model['detected']['iou']:.3f}",
                          f"{kind}, {record['num_detected']} pictures of {Path(record['data']).name}; full-image mask "
                          f"{model['detected']['full_mask_iou']:.3f}"))
    if generated and generated[-1]["detected"] is not None:
        seen = generated[-1]["detected"]
        cards.append(Card("mean IoU, generated", f"{seen['iou']:.3f}",
                          f"{generated[-1]['num_detected']} scenes; full-image mask {seen['full_mask_iou']:.3f}"))
    if gan and gan.stats:
        cards.append(Card("mask coverage", f"{gan.stats[-1]['Layers/coverage']:.3f}",
                          "of the picture" + _least_coverage(gan)))
        cards.append(Card("training length", f"{_kimg(gan)} kimg", "thousand pictures shown"))
        cards.append(Card("training time", dnnlib.util.format_time(gan.seconds),
                          f"on {gan.options.get('device', 'an unknown device')}"))
    return cards


def gan_facts(gan: GanRun) -> list[Fact]:
    """How the generator was trained."""
    opts, data = gan.options, gan.options["training_set_kwargs"]
    loss = {name: _over_the_run(gan, name) for name in opts["loss_kwargs"]}
    facts = {
        "data": data.get("path"), "pictures": data.get("max_size"), "masks": opts.get("masks_path"),
        "labels": "yes" if data.get("use_labels") else None, "mirrored too": "yes" if data.get("xflip") else None,
        "resolution": f"{opts['resolution']} px (crops of {data.get('size_px')} px)",
        "length": f"{_kimg(gan)} of {opts['total_kimg']:g} kimg" if gan.stats else None,
        "time": dnnlib.util.format_time(gan.seconds) if gan.stats else None,
        "last trained on": f"{datetime.fromtimestamp(gan.stats[-1]['timestamp'], timezone.utc):%Y-%m-%d}"
        if gan.stats else None,
        "batch": opts.get("batch_size"), "seed": opts.get("random_seed"), "device": opts.get("device"),
        "processes": opts.get("num_gpus"), "base": shown_options(gan).get("base"),
        "largest shift": loss.get("shift"), "mask coverage that costs nothing": loss.get("mask_min"),
        "weight of mask size": loss.get("mask_size_weight"), "weight of binarisation": loss.get("mask_binary_weight"),
        "weight of the border": loss.get("mask_border_weight"), "weight of the middle": loss.get("mask_center_weight"),
        "contrast jitter": loss.get("bg_jitter")}
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _found(gan: GanRun) -> dict[str, Any]:
    """Kimg after which the run finds masks, and the loss's parameters from there on; empty if it finds none."""
    return gan.options.get("found") or {}


def _over_the_run(gan: GanRun, name: str) -> Any:
    """A parameter of the loss; both values where it changes once masks are found."""
    first = gan.options["loss_kwargs"][name]
    then = _found(gan).get("loss_kwargs", {}).get(name, first)
    return first if then == first else f"{first}, from {_found(gan)['kimg']:g} kimg on {then}"


def _least_coverage(gan: GanRun) -> str:
    """What the run's last loss asked of the coverage."""
    loss = gan.options["loss_kwargs"]
    if _found(gan) and gan.stats[-1]["Progress/kimg"] > _found(gan)["kimg"]:
        loss = loss | _found(gan)["loss_kwargs"]
    is_asked = loss.get("mask_size_weight", 1) > 0
    return f"; at least {loss.get('mask_min', 0):g} asked for" if is_asked else ""


def shown_options(gan: GanRun) -> dict[str, Any]:
    """The options, without the folder that the base lies in."""
    return {name: value.split(" (")[0] if name == "base" else value for name, value in gan.options.items()}


def model_facts(model: ModelRecord) -> list[Fact]:
    """How a model was trained."""
    opts = model.about["options"]
    seconds = sum(rows[-1]["seconds"] for rows in model.stats.values())
    facts = {"data": opts.get("data"), "network": Path(opts.get("network") or "").name or None,
             "seed": opts.get("seed"),
             "steps": ", ".join(f"{rows[-1]['step']} ({name})" for name, rows in model.stats.items())
             if len(model.stats) <= 3 else f"{opts.get('steps')} for each of {len(model.stats)} chunks",
             "time": dnnlib.util.format_time(seconds), "date": model.about.get("date")}
    return [(name, str(value)) for name, value in facts.items() if value is not None]
