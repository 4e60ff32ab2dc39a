"""Kills at random moments, 2,000 training steps, 100,000 pictures: is a byte lost or changed, does memory grow?

Trainings of generators, distillations, encoders of chunks side by side, and segmenting, all small, are killed (SIGKILL)
at moments drawn at random, the main process or one of its workers, and then gone on with as a user does. What they
leave is compared byte for byte with what a call leaves that nobody disturbed. Then the memory of a long training and
of segmenting many pictures is sampled. Results are JSON lines on standard output, a table on standard error.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.segment_scale import sample_segmenting
from benchmarks.support.killing import Work, go_on_to_the_end, kill_one
from benchmarks.support.memory import Sample, peaks_of_parts, sample_memory
from benchmarks.support.provenance import provenance
from layered_plugin import runs
from layered_plugin.command_line import SEED, Whole
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.segmentation.model_file import network_hash
from layered_plugin.synthetic.shapes import write_shapes

TINY = ["--cfg=demo", "--resolution=16", "--cbase=64", "--cmax=4", "--w-dim=8", "--batch=8", "--device=cpu",
        "--precision=fp32", "--snap=1"]

# The order of the kills; what takes longer has fewer.
TURNS = ("training", "distillation", "segmenting", "chunks", "training", "distillation", "segmenting", "training")


def make_works(temp: Path, quick: bool) -> dict[str, Work]:
    """The works by name; they use what those before them have left undisturbed, in folders of their names."""
    data, small = temp / "shapes.zip", temp / "small.zip"
    write_shapes(dict(picture=str(data)), 24 if quick else 320, 32, 0)
    write_shapes(dict(picture=str(small)), 8, 18, 0)
    kimg, steps, adapt, chunk_steps, jobs = ("0.016", 4, 4, 2, 1) if quick else ("0.16", 210, 20, 205, 2)

    def begin(*command: str) -> Callable[[Path], list[str]]:
        return lambda folder: runs.or_go_on([*command, f"--outdir={folder}"])

    def on_gan(*command: str) -> Callable[[Path], list[str]]:
        return lambda folder: begin(*command, f"--network={runs.begun_runs(temp / 'training')[-1]}")(folder)

    def segment(folder: Path) -> list[str]:
        model = runs.begun_runs(temp / "distillation")[-1]
        return ["invert.py", "segment", f"--model={model}", f"--images={data}", f"--outdir={folder}", "--device=cpu",
                "--workers=2", "--batch=16"]

    return dict(
        training=Work(begin("train_layered.py", f"--data={small}", *TINY, f"--kimg={kimg}", "--tick=0.032"),
                      ["*.pkl", "*.png", "training-state-*.pt"]),
        distillation=Work(on_gan("invert.py", "distill", f"--data={small}", f"--steps={steps}", f"--adapt={adapt}",
                                 "--batch=8", "--max-coverage=1", "--min-coverage=0", "--device=cpu"),
                          ["*.safetensors", "*.png"]),
        chunks=Work(on_gan("invert.py", "train", f"--data={small}", "--mode=chunks", "--chunk-size=4", "--batch=4",
                           f"--steps={chunk_steps}", "--feature-resolution=8", f"--jobs={jobs}", "--device=cpu"),
                    ["*.safetensors", "*/*.png"]),
        segmenting=Work(segment, ["masks/**/*.png", "cutouts/**/*.png", "manifest.jsonl", "*.png"]))


def result_of(work: Work, folder: Path) -> dict[str, str]:
    """Hashes of a work's results, of its last run if it makes run folders."""
    begun = runs.begun_runs(folder)
    top = begun[-1] if begun else folder
    return {path.relative_to(top).as_posix(): hashlib.sha256(_contents(path)).hexdigest()
            for pattern in work.results for path in sorted(top.glob(pattern))}


def _contents(path: Path) -> bytes:
    """Of a file; of a snapshot every weight and setting, since a pickle also tells which equal strings are one."""
    if path.suffix != ".pkl":
        return path.read_bytes()
    data = load_snapshot(path)
    networks = {name: [network_hash(data[name]), data[name].init_kwargs] for name in ("G", "D", "G_ema")}
    return json.dumps([networks, data["training_set_kwargs"]]).encode()


def kill_often(works: dict[str, Work], kills: int, seed: int, temp: Path) -> Iterator[dict[str, Any]]:
    """Kill the works in turns, each kill in a run of its own that then goes on; a record for each."""
    random = np.random.RandomState(seed)
    log = temp / "log.txt"
    undisturbed: dict[str, tuple[float, dict[str, str]]] = {}
    for name, work in works.items():
        began = time.monotonic()
        if go_on_to_the_end(work, temp / name, log) != 0:
            raise click.ClickException(f"{name} failed undisturbed: {log.read_text()[-500:]}")
        undisturbed[name] = time.monotonic() - began, result_of(work, temp / name)
        if not undisturbed[name][1]:
            raise click.ClickException(f"{name} left nothing to compare")
        yield dict(kind="undisturbed", work=name, seconds=round(undisturbed[name][0], 3))
    for number in range(kills):
        name = TURNS[number % len(TURNS)]
        seconds, expected = undisturbed[name]
        folder, found = temp / f"kill-{number}", None
        while found is None:  # Until a moment is met at which it still runs.
            shutil.rmtree(folder, ignore_errors=True)
            moment = random.uniform(0, seconds)
            found = kill_one(works[name], folder, moment, random.uniform(), log)
        code = go_on_to_the_end(works[name], folder, log)
        result = result_of(works[name], folder)
        differing = sorted(file for file in expected.keys() | result.keys() if expected.get(file) != result.get(file))
        shutil.rmtree(folder)
        yield dict(kind="kill", work=name, number=number, seconds=round(moment, 3), undisturbed_seconds=round(
            seconds, 3), **found, then_exit_code=code, compared=len(expected), differing=differing)


def training_memory(steps: int, temp: Path) -> list[Sample]:
    """Memory of so many training steps."""
    return sample_memory(["train_layered.py", f"--outdir={temp}/long", f"--data={temp}/shapes.zip", *TINY,
                          f"--kimg={steps * 8 / 1000}", f"--tick={steps * 8 / 1000 / 20}", "--snap=20"], every=0.5)


def growth(samples: list[Sample]) -> dict[str, Any]:
    """Peaks of the fifths of a run after its first tenth, and by how much the last is above the first of them."""
    fifths = peaks_of_parts(samples[len(samples) // 10:], 5)
    return dict(seconds=round(samples[-1].seconds, 1), samples=len(samples), peak_mb_of_fifths=fifths,
                grown_mb=round(fifths[-1] - fifths[0], 1))


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a row for each kind of work, and one for each long run."""
    rows = ["| | kills | of these main processes | lost or changed | stuck or left behind |", "|---|---|---|---|---|"]
    of_kills = [record for record in records if record["kind"] == "kill"]
    for name in sorted({record["work"] for record in of_kills}):
        own = [record for record in of_kills if record["work"] == name]
        counts = (len(own), sum(one["killed"] == "main" for one in own),
                  sum(bool(one["differing"]) or one["then_exit_code"] != 0 for one in own),
                  sum(one["exit_code"] is None or one["outlived"] > 0 for one in own))
        rows.append(f"| {name} | {' | '.join(map(str, counts))} |")
    for record in records:
        if record["kind"] == "memory":
            peaks = ", ".join(f"{value:.0f}" for value in record["peak_mb_of_fifths"])
            rows.append(f"\n{record['what']}: {peaks} MB at most in each fifth, {record['grown_mb']:+.0f} MB")
    return "\n".join(rows)


@click.command()
@click.option("--kills", help="Number of kills", type=Whole(0), default=50, show_default=True,
              metavar="INT")
@click.option("--steps", help="Steps of the long training, 0 = none", type=Whole(0), default=2000, show_default=True,
              metavar="INT")
@click.option("--pictures", help="To segment in a row, thousands; 0 = none", type=Whole(0), default=100_000,
              show_default=True, metavar="INT")
@click.option("--seed", help="Of the moments", type=SEED, default=0, show_default=True, metavar="INT")
@click.option("--quick", help="A rehearsal: 4 kills of tiny works in single processes, no long runs", is_flag=True)
def main(kills: int, steps: int, pictures: int, seed: int, quick: bool) -> None:
    """Kill trainings and segmenting at random moments, and watch memory over a long time.

    \b
    Example:
    OMP_NUM_THREADS=1 python -m benchmarks.endurance > endurance.jsonl
    """
    torch.set_num_threads(1)  # Copies of a process lack its threads.
    if quick:
        kills, steps, pictures = 4, 0, 0
    records: list[dict[str, Any]] = []

    def note(record: dict[str, Any]) -> None:
        records.append(record)
        print(json.dumps(record), flush=True)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temp:
        os.environ.setdefault("XDG_STATE_HOME", temp)  # The user's list of known networks stays as it is.
        works = make_works(Path(temp), quick)
        note(dict(kind="run", seed=seed, quick=quick, **provenance("benchmarks.endurance")))
        for record in kill_often(works, kills, seed, Path(temp)) if kills else ():
            note(record)
        if steps:
            note(dict(kind="memory", what=f"{steps} training steps", **growth(training_memory(steps, Path(temp)))))
        if pictures:
            note(dict(kind="memory", what=f"{pictures} pictures, two workers",
                      **growth(sample_segmenting(pictures, 32, workers=2))))
    click.echo(table(records), err=True)
    if any(one["differing"] or one["then_exit_code"] or one["outlived"] or one["exit_code"] is None
           for one in records if one["kind"] == "kill"):
        sys.exit(1)


if __name__ == "__main__":
    main()
