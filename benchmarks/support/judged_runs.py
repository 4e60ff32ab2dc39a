"""Generators trained over settings and seeds, their masks scored by a judge: several at a time, resumable run by run.

Each run is what a user could type: train_layered.py, then eval.py generated (the protocol of the paper's Table 1).
"""

import json
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.support.shell import Shell, dry_run
from layered_plugin.command_line import user_errors
from layered_plugin.errors import MaskError, PictureError, TeacherError, UserError
from layered_plugin.evaluation.judge import UNetTeacher
from layered_plugin.evaluation.variety import Comparison
from layered_plugin.files import write_json
from layered_plugin.report.reading import read_gan_run
from layered_plugin.runs import begun_runs, or_go_on
from layered_plugin.signals import StopRequest

NUM_SCENES = 2000
SCENE_SEED = 1  # Of the scored scenes, whatever the seed of the training.
RESULT_FILE, ASKED_FILE = "result.json", "asked.json"
TICK = re.compile(r"tick .*?kimg ([\d.]+).* mask ([\d.]+).* eta (.+)")


@dataclass(frozen=True)
class JudgedRun:
    """One training and its scoring."""

    setting: str
    seed: int
    data: str
    kimg: float
    options: tuple[str, ...]  # Further ones of train_layered.py.
    judge: str
    masks: str  # True ones of the data, with which the outlines are compared.
    folder: Path  # Of this run alone.
    num: int = NUM_SCENES

    @property
    def name(self) -> str:
        return f"{self.setting} seed {self.seed}"

    @property
    def train_args(self) -> list[str]:
        """Command of a new training."""
        return ["train_layered.py", f"--outdir={self.folder}", f"--data={self.data}", "--cfg=demo",
                f"--kimg={self.kimg:g}", f"--seed={self.seed}", *self.options]

    @property
    def asked(self) -> list[str]:
        """What the result depends on."""
        return [*self.train_args[2:], f"--judge={self.judge}", f"--masks={self.masks}", f"--num={self.num}"]


def train_and_score(run: JudgedRun, shell: Shell) -> dict[str, Any]:
    """Train, or go on with what was begun; score the last snapshot; keep the result.

    Raises:
        click.ClickException: A command failed, or the folder is of another run.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    write_asked(run.folder, run.asked)
    shell.call(or_go_on(run.train_args), run.folder / "train.log", _say_tenths(run))
    run_dir = begun_runs(run.folder)[-1]
    score = ["eval.py", "generated", f"--network={run_dir}", "--snapshot=latest", "--teacher=unet",
             f"--weights={run.judge}", f"--num={run.num}", f"--seed={SCENE_SEED}",
             f"--real={run.data}", f"--real-masks={run.masks}"]
    scores = flat_scores(json.loads(shell.call(score, run.folder / "score.log")))
    result = dict(scores, setting=run.setting, data=Path(run.data).name, train_seed=run.seed, kimg=run.kimg,
                  train_minutes=read_gan_run(run_dir).seconds / 60,
                  train_command=shlex.join(["python", *run.train_args]))
    write_json(run.folder / RESULT_FILE, result)
    return result


def flat_scores(record: dict[str, Any]) -> dict[str, Any]:
    """The entries of a record of `eval.py generated` that the tables need.

    `mean_iou` is over all scenes; `mean_iou_detected` and `reference_iou` are over those in which the judge sees an
    object, None if there are none. `shapes`, where outlines were compared: as shares of what true masks reach.
    """
    shapes = dict(shapes=record["variety"]["shapes"]["share"]) if "variety" in record else {}
    kept = {key: record[key] for key in ("num", "coverage", "network", "seed", "base", "command")}
    seen = record["detected"] or dict(iou=None, full_mask_iou=None)
    return dict(mean_iou=record["all"]["iou"], mean_iou_detected=seen["iou"], reference_iou=seen["full_mask_iou"],
                detected=record["num_detected"], judge_coverage=record["teacher_coverage"],
                judge=record["teacher"]["weights"], **shapes, **kept)


def judged_results(runs: Sequence[JudgedRun], jobs: int) -> list[dict[str, Any]]:
    """Results of all runs, in their order; finished ones are read, the others made, with progress on stderr.

    Args:
        runs: At least one.
        jobs: Runs at a time.

    Raises:
        click.ClickException: An option or file is of no use, or runs failed; the others were finished all the same.
        SystemExit: Ctrl-C or SIGTERM; the trainings have saved.
    """
    for run in runs:
        check_same(run.folder, run.asked)
    todo = [run for run in runs if not (run.folder / RESULT_FILE).is_file()]
    if todo:
        _check_usable(runs, todo[0])
        _make(todo, len(runs), jobs)
    return [json.loads((run.folder / RESULT_FILE).read_text()) for run in runs]


def _make(todo: Sequence[JudgedRun], total: int, jobs: int) -> None:
    start, shell, failures = time.monotonic(), Shell(), []
    with ThreadPoolExecutor(jobs) as pool, StopRequest() as stop:
        pending: dict[Future[dict[str, Any]], JudgedRun] = {pool.submit(train_and_score, run, shell): run
                                                            for run in todo}
        done = 0
        while pending and stop.received is None:
            for future in wait(pending, timeout=0.5, return_when=FIRST_COMPLETED).done:
                run, error = pending.pop(future), future.exception()
                done += 1
                left = (time.monotonic() - start) / done * len(pending) / 60
                ahead = f"{total - len(pending)} of {total} runs, about {left:.0f} min to go"
                if error is None:
                    scores = future.result()
                    _say(f"{run.name}: mean IoU of all scenes {scores['mean_iou']:.3f}, coverage "
                         f"{scores['shapes']['coverage']:.3f}; {ahead}")
                elif isinstance(error, click.ClickException | UserError):
                    failures.append(f"{run.name}: {error}")
                    _say(f"{run.name}: FAILED; {ahead}")
                else:
                    shell.stop()
                    raise error
        if stop.received is not None:
            _say(f"{stop.received}: saving ...")
            pool.shutdown(wait=False, cancel_futures=True)
            shell.stop()
    if stop.received is not None:
        _say("Stopped; the same command goes on.")
        sys.exit(128 + signal.Signals[stop.received])
    if failures:
        raise click.ClickException("\n".join([*failures, "The same command tries again."]))


def _check_usable(runs: Sequence[JudgedRun], run: JudgedRun) -> None:
    """Fail at once, not run by run, over what all runs share; options of which a run has begun are known to be good."""
    with user_errors({TeacherError: "--judge", MaskError: "--masks", PictureError: "--data"}):
        UNetTeacher(run.judge)
        Comparison(run.data, run.masks)
    if any((other.folder / ASKED_FILE).is_file() for other in runs):
        return
    dry_run(run.train_args)


def write_asked(folder: Path, asked: Sequence[str]) -> None:
    """Note in a folder the options that its results depend on."""
    write_json(folder / ASKED_FILE, asked)


def check_same(folder: Path, asked: Sequence[str]) -> None:
    """See that what a folder holds was made with these very options; a new one is fine.

    Raises:
        click.ClickException: It was made with others; the text names them.
    """
    file = folder / ASKED_FILE
    found = json.loads(file.read_text()) if file.is_file() else asked
    if found != asked:
        differs = ", ".join(option for option in found if option not in asked) or "fewer options"
        raise click.ClickException(f"--outdir: {folder} was made with {differs}; choose another --outdir")


def _say_tenths(run: JudgedRun) -> Callable[[str], None]:
    """Pass on where a training is, at each tenth of it."""
    shown = -1

    def say(line: str) -> None:
        nonlocal shown
        found = TICK.match(line)
        if found and int(float(found[1]) / run.kimg * 10) > shown:
            shown = int(float(found[1]) / run.kimg * 10)
            _say(f"{run.name}: {found[1]} of {run.kimg:g} kimg, mask {float(found[2]):.2f}, {found[3]} to go")

    return say


def _say(text: str) -> None:
    click.echo(text, err=True)
