"""What makes a generator draw varied, sound outlines: settings x seeds at equal minutes, all side by side.

Each run is trained by train_layered.py for the same time with one thread, then its masks are compared with true ones,
its pictures with real ones, and a U-Net that it alone teaches is scored on unseen pictures.
"""

import json
import re
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from benchmarks.support.provenance import provenance
from benchmarks.support.shell import Shell
from layered_plugin.command_line import Number, Whole
from layered_plugin.data.mask_files import MaskFiles
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import UserError
from layered_plugin.evaluation.variety import NUM_COMPARED, real_masks, real_pictures, score_variety
from layered_plugin.files import atomic_write
from layered_plugin.model.scenes import collect_scenes
from layered_plugin.model.snapshots import load_snapshot

WIDE = ["--cbase=1024", "--cmax=64"]
BATCH = ["--mask-size-over=batch", "--range-weight=0.1"]
VARIED = [*BATCH, "--mask-floor=0.4", "--mask-max=0.65", "--mask-variety=0.55"]
SETTLED = ["--lr=0.002:0.0002"]
FREED = ["--shift=0.125:0.06", "--mask-border-weight=1:0.3"]
SETTINGS: dict[str, list[str]] = {  # Beside --cfg=demo. An option that is given twice has its last value.
    "demo": [],
    "preset": ["--cfg=varied"],
    "paper": [*WIDE, "--mask-size-weight=2", "--mask-border-weight=0", "--mask-center-weight=0"],
    "none": WIDE,
    "batch": [*WIDE, *BATCH],
    "no-floor": [*WIDE, *BATCH, "--mask-variety=0.55"],
    "varied": [*WIDE, *VARIED],
    "settled": [*WIDE, *VARIED, *SETTLED],
    "settled-less": [*WIDE, *VARIED, *SETTLED, "--mask-variety=0.45"],
    "settled-more": [*WIDE, *VARIED, *SETTLED, "--mask-variety=0.65"],
    "settled-unbound": [*WIDE, *VARIED, *SETTLED, "--mask-variety=0.55:0"],
    "settled-freed": [*WIDE, *VARIED, *SETTLED, *FREED],
    "settled-quick": [*WIDE, *VARIED, "--lr=0.004:0.0004"],
    "settled-weak-r1": [*WIDE, *VARIED, *SETTLED, "--gamma=0.1"],
    "settled-narrow": [*VARIED, *SETTLED],
}
PILOT_KIMG = 0.6
TICK = re.compile(r"tick (\d+) .*?kimg ([\d.]+).*?sec/kimg ([\d.]+)")


class Trial(NamedTuple):
    """One training."""

    setting: str
    seed: int
    device: str
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.setting}-seed{self.seed}-{self.device}"


def train_args(trial: Trial, data: str, resolution: int, kimg: float, folder: Path) -> list[str]:
    """Command of a training."""
    return ["train_layered.py", f"--outdir={folder}", f"--data={data}", "--cfg=demo", f"--resolution={resolution}",
            f"--kimg={kimg:g}", f"--seed={trial.seed}", f"--device={trial.device}", "--snap=1000",
            *SETTINGS[trial.setting]]


def measure_speed(trial: Trial, data: str, resolution: int, shell: Shell) -> float:
    """Pictures per second of a training among the others, after its first steps."""
    seconds: list[float] = []

    def on_line(line: str) -> None:
        found = TICK.match(line)
        if found and int(found[1]) > 0:
            seconds.append(float(found[3]))

    folder = trial.folder / "pilot"
    folder.mkdir(parents=True)
    args = train_args(trial, data, resolution, PILOT_KIMG, folder)
    shell.call([*args, "--tick=0.1"], folder / "log", on_line)
    if not seconds:
        raise click.ClickException(f"{folder / 'log'}: the training was too short to measure its speed")
    return 1000 / statistics.median(seconds)


def only_run(outdir: Path) -> Path:
    """The one run folder that a command has made."""
    found = list(outdir.glob("[0-9]*-*"))
    if len(found) != 1:
        raise click.ClickException(f"{outdir}: expected one run folder, found {len(found)}")
    return found[0]


def train_and_score(trial: Trial, speed: float, seconds: float, files: dict[str, str | None], resolution: int,
                    steps: int, shell: Shell, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train for about so many seconds; score; `keep` gets the result, and once more with the taught IoU."""
    kimg = max(round(speed * seconds / 1000, 1), 0.5)
    start = time.monotonic()
    args = train_args(trial, str(files["data"]), resolution, kimg, trial.folder)
    shell.call(args, trial.folder / "train.log")
    minutes = (time.monotonic() - start) / 60
    run_dir = only_run(trial.folder)
    snapshot = load_snapshot(run_dir)
    scenes = collect_scenes(snapshot["G_ema"], NUM_COMPARED, seed=1)
    real = real_pictures(str(files["data"]), resolution, NUM_COMPARED)
    names = PictureSource(str(files["data"])).names
    masks = real_masks(MaskFiles(str(files["masks"])), names, resolution, NUM_COMPARED)
    result = dict(setting=trial.setting, seed=trial.seed, device=trial.device, options=SETTINGS[trial.setting],
                  kimg=kimg, train_minutes=minutes, images_per_second=speed,
                  **score_variety(scenes, real, masks))
    keep(result)
    for kind in ("layers", "network-snapshot"):
        found = max(run_dir.glob(f"{kind}*"))
        shutil.copy(found, trial.folder.parent.parent / f"{trial.name}{found.suffix}")
    if files["test_data"] is not None and steps > 0:
        result = dict(result, taught_iou=_teach(trial, run_dir, files, steps, shell))
        keep(result)
    return result


def _teach(trial: Trial, run_dir: Path, files: dict[str, str | None], steps: int, shell: Shell) -> float:
    """IoU on unseen real pictures of a U-Net that learnt from the generator alone."""
    log = trial.folder / "distill.log"
    shell.call(["invert.py", "distill", f"--network={run_dir}", f"--outdir={trial.folder}/distilled",
                f"--steps={steps}", "--adapt=0", "--vary-shape=0"], log)
    model = only_run(trial.folder / "distilled")
    record = shell.call(["eval.py", "real", f"--model={model}", f"--data={files['test_data']}",
                         f"--masks={files['test_masks']}", "--baselines=none"], log)
    return json.loads(record)["models"][0]["detected"]["iou"]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per run."""
    lines = ["| setting | device | seed | kimg | coverage | precision | variation | area deviation | Frechet "
             "| taught IoU |", "|---|---|---|---|---|---|---|---|---|---|"]
    for row in results:
        share = row["shapes"]["share"]
        taught = f"{row['taught_iou']:.3f}" if "taught_iou" in row else "-"
        cells = [row["setting"], row["device"], str(row["seed"]), f"{row['kimg']:g}", f"{share['coverage']:.3f}",
                 f"{share['precision']:.3f}", f"{share['variation']:.2f}", f"{share['area_deviation']:.2f}",
                 f"{row['frechet']:.2f} ({row['frechet_floor']:.2f})", taught]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def side_by_side(trials: list[Trial], work: Callable[[Trial], Any]) -> list[Any]:
    """Do the same with all trials at once; a failure that a user can mend is a result of None, and named."""
    def attempt(trial: Trial) -> Any:
        try:
            return work(trial)
        except (click.ClickException, UserError) as err:
            click.echo(f"{trial.name}: {err}", err=True)
            return None

    with ThreadPoolExecutor(len(trials)) as pool:
        return list(pool.map(attempt, trials))


@click.command(context_settings=dict(show_default=True))
@click.option("--data", help="Training pictures", metavar="ZIP", required=True)
@click.option("--masks", help="True masks, for scores alone", metavar="ZIP", required=True)
@click.option("--test-data", help="Unseen pictures, for the taught IoU", metavar="ZIP")
@click.option("--test-masks", help="Their masks", metavar="ZIP")
@click.option("--settings", help="Which of: " + " ".join(SETTINGS), metavar="LIST", default="demo,preset")
@click.option("--cuda-settings", help="Those to train on the GPU beside them", metavar="LIST", default="")
@click.option("--seeds", help="Training seeds 0 to N - 1", type=Whole(1), default=1, metavar="N")
@click.option("--resolution", help="Of the networks", type=Whole(1), default=32, metavar="PX")
@click.option("--seconds", help="Length of each training", type=Number(0, min_open=True), default=200, metavar="S")
@click.option("--steps", help="Of the distillation, 0 = none", type=Whole(0), default=600, metavar="INT")
@click.option("--outdir", help="New folder for runs, pictures, snapshots, results.json", metavar="DIR", required=True)
def main(settings: str, cuda_settings: str, seeds: int, resolution: int, seconds: float, steps: int, outdir: str,
         **files: str | None) -> None:
    """Train settings x seeds all at once, one thread each, and score them; results.json and a table on stdout.

    \b
    Example:
    python -m benchmarks.variety --data=data/plants-lit.zip --masks=data/plants-lit-masks.zip \\
        --settings=demo,preset --seconds=600 --outdir=runs/variety
    """
    torch.set_num_threads(1)
    for name in filter(None, [*settings.split(","), *cuda_settings.split(",")]):
        if name not in SETTINGS:
            raise click.UsageError(f"--settings must be among {', '.join(SETTINGS)}, got {name}")
    folder, runs = Path(outdir), Path(outdir) / "runs"
    wanted = [(name, device) for names, device in ((settings, "cpu"), (cuda_settings, "cuda"))
              for name in filter(None, names.split(","))]
    trials = [Trial(name, seed, device, runs / f"{name}-seed{seed}-{device}")
              for seed in range(seeds) for name, device in wanted]
    runs.mkdir(parents=True)
    shell = Shell(threads=1)
    signal.signal(signal.SIGTERM, lambda *_: shell.stop())  # What is finished has been kept.
    speeds = side_by_side(trials, lambda trial: measure_speed(trial, str(files["data"]), resolution, shell))
    click.echo("pictures per second: " + ", ".join(
        f"{trial.name} {speed and round(speed)}" for trial, speed in zip(trials, speeds, strict=True)), err=True)
    pace = dict(zip(trials, speeds, strict=True))
    kept: dict[Trial, dict[str, Any]] = {}
    lock = threading.Lock()

    def keep(trial: Trial, result: dict[str, Any]) -> None:
        with lock, atomic_write(folder / "results.json") as file:
            kept[trial] = result
            record = dict(results=list(kept.values()), **provenance("benchmarks.variety"))
            file.write(json.dumps(record, indent=2).encode())

    side_by_side([trial for trial in trials if pace[trial]], lambda trial: train_and_score(
        trial, pace[trial], seconds, files, resolution, steps, shell, partial(keep, trial)))
    print(table([kept[trial] for trial in trials if trial in kept]))


if __name__ == "__main__":
    main()
