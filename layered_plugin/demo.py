"""The whole job on built-in data, as ``make demo`` runs it: draw, train, learn to segment, evaluate, report.

Every step is a command that a user could type; it is shown before it runs. Finished steps are not repeated.
"""

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from layered_plugin.calls import as_typed
from layered_plugin.command_line import CheckedCommand, Number, Whole
from layered_plugin.cores import usable_cores
from layered_plugin.runs import MODEL_FILE, last_kimg, or_go_on

DATA = Path("data")

# Outlines as varied as those of the pictures, in fewer of them (docs/results.md, "The demo: shapes").
VARIETY = ["--mask-variety=0.35", "--mask-size-over=batch", "--mask-floor=0.4", "--mask-max=0.65", "--range-weight=0.1"]

PAIRS = [f"--data={DATA}/shapes-test.zip", f"--masks={DATA}/shapes-test-masks.zip"]


class Steps:
    """Commands, one after the other.

    Args:
        threads: Of each command, None = PyTorch's choice.
        stop: No command begins once it is set; a command that fails sets it.
        log: Gets what the commands say, None = the screen.
    """

    def __init__(self, threads: int | None = None, stop: threading.Event | None = None,
                 log: Path | None = None) -> None:
        self._env = os.environ if threads is None else dict(os.environ, OMP_NUM_THREADS=str(threads))
        self._stop, self._log = stop or threading.Event(), log

    def run(self, title: str, command: Sequence[str]) -> None:
        """Show and run one command; SystemExit if it failed, or one of other steps has."""
        if self._stop.is_set():
            sys.exit(1)
        meanwhile = "" if self._log is None else f"Meanwhile, output in {self._log}: "
        click.echo(f"\n== {meanwhile}{title}\n$ {as_typed(shlex.join(['python', *command]))}")
        script = Path(command[0])
        words = ["-m", f"layered_plugin.commands.{script.stem}", *command[1:]] if script.suffix == ".py" else command
        with open(self._log or os.devnull, "a") as log:
            said = None if self._log is None else log
            process = subprocess.Popen([sys.executable, *words], env=self._env, stderr=said,
                                       stdout=subprocess.DEVNULL if script.name == "eval.py" else said)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # The command has got it as well, and saves what it has.
            sys.exit(process.wait() or 130)
        if code != 0:
            self._stop.set()
            if self._log is not None:
                click.echo(f"Failed, see {self._log}: {title}", err=True)
            sys.exit(code)


def side_by_side(work: Callable[[Steps], None], others: Callable[[Steps], None], log: Path) -> None:
    """Take two courses of steps at a time, each with half of the threads; the others have the log, not the screen."""
    given, stop = os.environ.get("OMP_NUM_THREADS", ""), threading.Event()
    threads = max(1, (int(given) if given.isdigit() else usable_cores()) // 2)
    with ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(others, Steps(threads, stop, log))
        try:
            work(Steps(threads, stop))
            meanwhile.result()
        except BaseException:
            stop.set()
            raise


def learn(todo: Steps, outdir: Path, kind: str, title: str, command: list[str], always: Sequence[str] = (),
          is_finished: Callable[[Path], bool] = lambda run_dir: (run_dir / MODEL_FILE).is_file()) -> Path:
    """Train unless there is a finished run; an unfinished one is continued.

    Args:
        todo: To which the training belongs.
        outdir: Parent of the run folders.
        kind: What their names have after the number.
        title: Of the step.
        command: For a new run.
        always: Further options, also for a run that is continued.
        is_finished: Asked of a run folder.

    Raises:
        click.ClickException: The training has ended, but there is no finished run.
    """
    def finished() -> list[Path]:
        return [path for path in sorted(outdir.glob(f"[0-9]*-{kind}-*")) if is_finished(path)]

    if not finished():
        todo.run(title, [*or_go_on(command, kind), *always])
    if not finished():
        raise click.ClickException(f"--outdir: {outdir} has no finished run of {kind}, though its training has ended; "
                                   "choose another folder")
    return finished()[-1]


def segmenter(todo: Steps, out: Path, given: list[str], steps: int, segmented: Path) -> None:
    """What a user is after: a small network, and the masks that it finds."""
    model = learn(todo, out, "distill", "Distil a segmenter from generated pictures, then real ones",
                  ["invert.py", "distill", *given, f"--steps={steps}", f"--adapt={max(1, steps // 2)}"])
    todo.run("Score the masks of real pictures never trained on", ["eval.py", "real", f"--model={model}", *PAIRS])
    # Worker processes would take longer to start than to work.
    todo.run("Segment them to files", ["invert.py", "segment", f"--model={model}", f"--images={DATA}/shapes-test.zip",
                                       f"--outdir={segmented}", "--workers=0"])


def comparisons(todo: Steps, out: Path, given: list[str], steps: int) -> None:
    """What the report compares it with: the generator's own masks, and the paper's encoder."""
    judge = DATA / "judge-shapes-demo.pt"
    if not judge.is_file():
        todo.run("Train a judge on true masks, to score generated scenes",
                 ["eval.py", "judge", f"--data={DATA}/shapes.zip", f"--masks={DATA}/shapes-masks.zip",
                  f"--test-data={DATA}/shapes-test.zip", f"--test-masks={DATA}/shapes-test-masks.zip",
                  f"--dest={judge}", f"--steps={steps}"])
    todo.run("Score the masks of generated scenes, and how varied their outlines are",
             ["eval.py", "generated", given[0], "--teacher=unet", f"--weights={judge}", "--num=2000",
              f"--real={DATA}/shapes.zip", f"--real-masks={DATA}/shapes-masks.zip"])
    half = max(1, steps // 2)
    encoder = learn(todo, out, "encoder", "Train the paper's encoder on the whole data set",
                    ["invert.py", "train", *given, "--mode=dataset", f"--pretrain={half}", f"--steps={half}"])
    todo.run("Score its masks of the same pictures",  # The baselines are scored with the segmenter.
             ["eval.py", "real", f"--model={encoder}", *PAIRS, "--baselines=none"])


@click.command(cls=CheckedCommand)
@click.option("--outdir", help="Where the runs go", metavar="DIR", default="runs/demo", show_default=True)
@click.option("--kimg", help="Length of the generator's training", metavar="KIMG", type=Number(0, min_open=True),
              default=16.0, show_default=True)
@click.option("--steps", help="Steps of each stage of the segmenter", type=Whole(min=1), default=140, show_default=True)
def main(outdir: str, kimg: float, steps: int) -> None:
    """Draw pictures, train the layered GAN, learn to segment, evaluate, write the report.

    The segmenter and what it is compared with are trained side by side. Ctrl-C saves; the same command goes on.

    \b
    Example:
    python -m layered_plugin.demo --outdir=runs/demo
    """
    start, out, todo = time.monotonic(), Path(outdir), Steps()
    for dest, options in (("shapes", []), ("shapes-test", ["--num=2000", "--seed=1"])):
        if not (DATA / f"{dest}.zip").is_file():
            todo.run("Draw pictures with shadow and light; their masks are for scoring only",
                     ["-m", "layered_plugin.dataset_tool", "shapes", f"--dest={DATA}/{dest}.zip",
                      f"--masks={DATA}/{dest}-masks.zip", "--jobs=2", *options])
    gan = learn(todo, out, "shapes-demo", "Train the layered generator on unlabelled pictures",
                ["train_layered.py", f"--outdir={out}", f"--data={DATA}/shapes.zip", "--cfg=demo", "--snap=8",
                 *VARIETY],
                [f"--kimg={kimg:g}"], lambda run_dir: last_kimg(run_dir) >= int(kimg))
    given = [f"--network={gan}", f"--data={DATA}/shapes.zip", f"--outdir={out}"]
    segmented = out / "segmented"
    side_by_side(lambda todo: segmenter(todo, out, given, steps, segmented),
                 lambda todo: comparisons(todo, out, given, steps), out / "comparisons.log")
    report = out / "report.html"
    todo.run("Write the report", ["eval.py", "report", str(gan), f"--segmented={segmented}", f"--dest={report}"])
    click.echo(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. Masks: {segmented}\n"
               f"Report, open it in a browser: {report.resolve()}")


if __name__ == "__main__":
    main()
