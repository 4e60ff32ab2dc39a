"""What trainings and scorings leave behind, made up for the tests of the report; and a reader of its page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import PIL.Image

VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Elements as (tag, attributes, text with that of its children), in the order of their ends."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.order, self._open = [], [], []
        self.text = Path(path).read_text()
        self.feed(self.text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.order.append(tag)
        if tag in VOID:
            self.elements.append((tag, dict(attrs), ""))
        else:
            self._open.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self._open and self._open[-1][0] == tag, f"</{tag}> closes {self._open[-1:]}"
        self.elements.append(tuple(self._open.pop()))

    def handle_data(self, data):
        for element in self._open:
            element[2] += data
        if data.strip() and self._open[-1][0] != "style":
            self.order.append("text")

    def all(self, tag, **attrs):
        wanted = {name.rstrip("_"): value for name, value in attrs.items()}
        return [element for element in self.elements
                if element[0] == tag and all(element[1].get(name) == value for name, value in wanted.items())]

    def texts(self, tag, **attrs):
        return [" ".join(element[2].split()) for element in self.all(tag, **attrs)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def save_picture(path, width=12, height=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def tick(kimg, seconds, maintenance=0.5, **more):
    """A line of stats.jsonl; `seconds` since the tick before, or since the start."""
    values = {"Progress/kimg": kimg, "Timing/sec_per_tick": seconds - maintenance,
              "Timing/maintenance_sec": maintenance, "Timing/sec_per_kimg": 4.0, "Loss/G/loss": 0.7 + kimg,
              "Loss/D/loss": 1.3, "Loss/mask/size": 0.01, "Loss/mask/binary": 0.2, "Loss/mask/border": 0.1,
              "Layers/coverage": 0.25 + kimg / 100, "Layers/border": 0.01, "Layers/binarity": 0.9,
              "Progress/augment": 0.0, **more}
    return {**{name: dict(num=1, mean=value, std=0.0) for name, value in values.items()}, "timestamp": 1795485472.5}


def make_gan(folder, kimgs=(0, 1, 2, 3, 4, 5, 6, 7), data="data/shapes.zip", command=True):
    """A run of train_layered.py, as far as the report looks at it."""
    folder.mkdir(parents=True)
    options = dict(
        base="bundled (/home/someone/vendor)", training_set_kwargs=dict(path=data, size_px=36, max_size=20000),
        loss_kwargs=dict(shift=0.125, mask_min=0.2, mask_size_weight=10), resolution=32, total_kimg=7.0, batch_size=32,
        random_seed=5, device="cpu")
    (folder / "training_options.json").write_text(json.dumps(options))
    log = "Run folder: x\nCommand: python train_layered.py --outdir=runs --data=data/shapes.zip --cfg=demo\ntick 0\n"
    (folder / "log.txt").write_text(log if command else "Run folder: x\n")
    if kimgs:
        (folder / "stats.jsonl").write_text(lines([tick(kimg, 60.0 if kimg else 10.0) for kimg in kimgs]))
    for kimg in kimgs:
        save_picture(folder / f"layers{kimg:06d}.png", 40 + kimg)
    return folder


def make_model(folder, gan, kind="distill", finished=True, **options):
    """A run of invert.py."""
    folder.mkdir(parents=True)
    given = dict(network=f"{gan}/network-snapshot-000007.pkl", data="data/shapes.zip", seed=3, steps=20) | options
    about = dict(options=given, command=f"python invert.py {kind} --outdir={folder.parent}", date="2026-11-24")
    if finished:
        (folder / "model.json").write_text(json.dumps(dict(about, kind=kind, resolution=32)))
    (folder / "options.json").write_text(json.dumps(about))
    rows = [dict(stage="generated", step=step, seconds=step * 2.0, loss=1 / step, images_per_sec=50.0)
            for step in (10, 20)]
    rows += [dict(stage="real", step=step, seconds=step * 3.0, loss=0.2, kept=0.9, images_per_sec=40.0)
             for step in (10, 20)]
    (folder / "stats.jsonl").write_text(lines(rows))
    save_picture(folder / "samples000000.png", 61)
    save_picture(folder / "samples000020.png", 62)
    return folder


def scores(iou, full=0.3):
    rest = (iou / 2 + 0.4321, iou * 0.9123, iou / 3 + 0.6, iou * 0.97, iou * 0.95)
    names = ("miou", "dice", "pixel_accuracy", "max_fbeta", "pooled_iou")
    return dict(iou=iou, iou_ci=[iou - 0.0123, iou + 0.0117], full_mask_iou=full, **dict(zip(names, rest, strict=True)))


def generated_record(gan, iou=0.9123, **more):
    return dict(protocol="generated", network=f"{gan}/network-snapshot-000007.pkl", resolution=32,
                teacher=dict(kind="unet", weights="data/judge.pt", size_px=32), detector_size=32, seed=0, trunc=1.0,
                num=2000, num_detected=1990, mean_iou=iou, reference_iou=0.3, coverage=0.2871, teacher_coverage=0.29,
                detected=scores(iou), all=scores(iou - 0.01), command="python eval.py generated --network=x",
                date="2026-11-24") | more


def real_record(model, iou=0.8765, kind="distill", baselines=None, **more):
    rivals = dict(full=0.3, otsu=0.412) if baselines is None else baselines
    own = dict(model=str(model), kind=kind, resolution=32, train_seed=0, network="n", detected=scores(iou),
               all=scores(iou), reconstruction_error=None)
    return dict(protocol="real", data="data/shapes-test.zip", num_data=500, num=500, num_detected=500,
                teacher=dict(kind="masks", path="data/shapes-test-masks.zip"), eval_size="gt", polarity="fixed",
                flip=False, refine=0, posterior=False, seed=0, models=[own],
                baselines={name: dict(detected=scores(value), all=scores(value)) for name, value in rivals.items()},
                command=f"python eval.py real --model={model}", date="2026-11-24") | more


def make_runs(tmp_path):
    """A training run with two scored models beside it, and a segmented folder."""
    gan = make_gan(tmp_path / "00000-shapes")
    (gan / "metric-generated.jsonl").write_text(lines([generated_record(gan)]))
    for name, kind, iou in (("00001-distill", "distill", 0.8765), ("00002-encoder", "encoder", 0.5432)):
        model = make_model(tmp_path / name, gan, kind)
        (model / "metric-real.jsonl").write_text(lines([real_record(model, iou, kind)]))
        save_picture(model / "real-best.png", 63)
        save_picture(model / "real-worst.png", 64)
    entries = [dict(name=f"{idx}.jpg", coverage=0.3, error=20.0 - idx, width=8, height=6) for idx in range(6)]
    segmented = tmp_path / "segmented"
    for entry in entries:
        for folder in ("cutouts", "masks", "reconstructions"):
            save_picture(segmented / folder / entry["name"].replace("jpg", "png"))
    (segmented / "manifest.jsonl").write_text(lines(entries))
    save_picture(segmented / "contact-sheet.png", 65)
    return tmp_path
