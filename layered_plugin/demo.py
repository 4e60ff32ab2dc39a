"""The whole job on built-in data, as ``make demo`` runs it: draw, train, learn to segment, evaluate, report.

Every step is a command that a user could type; it is shown before it runs. Finished steps are not repeated.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from layered_plugin.calls import as_typed
from layered_plugin.command_line import CheckedCommand, Number, Whole
from layered_plugin.runs import MODEL_FILE, last_kimg, or_go_on

DATA = Path("data")

PAIRS = [f"--data={DATA}/shapes-test.zip", f"--masks={DATA}/shapes-test-masks.zip"]


def run(title: str, command: Sequence[str]) -> None:
    """Show and run one command.

    Raises:
        SystemExit: It failed.
    """
    click.echo(f"\n== {title}\n$ {as_typed(shlex.join(['python', *command]))}")
    script = Path(command[0])
    words = ["-m", f"layered_plugin.commands.{script.stem}", *command[1:]] if script.suffix == ".py" else command
    done = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL if script.name == "eval.py" else None)
    if done.returncode != 0:
        sys.exit(done.returncode)


def learn(outdir: Path, kind: str, title: str, command: list[str], always: Sequence[str] = (),
          is_finished: Callable[[Path], bool] = lambda run_dir: (run_dir / MODEL_FILE).is_file()) -> Path:
    """Train unless there is a finished run; an unfinished one is continued.

    Args:
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
        run(title, [*or_go_on(command, kind), *always])
    if not finished():
        raise click.ClickException(f"--outdir: {outdir} has no finished run of {kind}, though its training has ended; "
                                   "choose another folder")
    return finished()[-1]


@click.command(cls=CheckedCommand)
@click.option("--outdir", help="Where the runs go", metavar="DIR", default="runs/demo", show_default=True)
@click.option("--kimg", help="Length of the generator's training", metavar="KIMG", type=Number(0, min_open=True),
              default=24.0, show_default=True)
@click.option("--steps", help="Steps of each stage that follows", metavar="INT", type=Whole(min=1),
              default=250, show_default=True)
def main(outdir: str, kimg: float, steps: int) -> None:
    """Draw pictures, train the layered GAN, learn to segment, evaluate, write the report.

    \b
    Example:
    python -m layered_plugin.demo --outdir=runs/demo
    """
    start, out = time.monotonic(), Path(outdir)
    for dest, options in (("shapes", []), ("shapes-test", ["--num=2000", "--seed=1"])):
        if not (DATA / f"{dest}.zip").is_file():
            run("Draw pictures with shadow and light; their masks are for scoring only",
                ["-m", "layered_plugin.dataset_tool", "shapes", f"--dest={DATA}/{dest}.zip",
                 f"--masks={DATA}/{dest}-masks.zip", *options])
    gan = learn(out, "shapes-demo", "Train the layered generator on unlabelled pictures",
                ["train_layered.py", f"--outdir={out}", f"--data={DATA}/shapes.zip", "--cfg=demo"],
                [f"--kimg={kimg:g}"], lambda run_dir: last_kimg(run_dir) >= int(kimg))
    given = [f"--network={gan}", f"--data={DATA}/shapes.zip", f"--outdir={out}", f"--steps={steps}"]
    distilled = learn(out, "distill", "Distil a segmenter from generated pictures, then real ones",
                      ["invert.py", "distill", *given, f"--adapt={steps}"])
    encoder = learn(out, "encoder", "Train the paper's encoder on the whole data set",
                    ["invert.py", "train", *given, "--mode=dataset", f"--pretrain={steps}"])
    judge = DATA / "judge-shapes-demo.pt"
    if not judge.is_file():
        run("Train a judge on true masks, to score generated scenes",
            ["eval.py", "judge", f"--data={DATA}/shapes.zip", f"--masks={DATA}/shapes-masks.zip",
             f"--test-data={DATA}/shapes-test.zip", f"--test-masks={DATA}/shapes-test-masks.zip", f"--dest={judge}",
             f"--steps={steps}"])
    run("Score the masks of generated scenes",
        ["eval.py", "generated", f"--network={gan}", "--teacher=unet", f"--weights={judge}", "--num=2000"])
    for model, options in ((distilled, []), (encoder, ["--baselines=none"])):  # Once for both.
        run("Score the masks of real pictures never trained on",
            ["eval.py", "real", f"--model={model}", *PAIRS, *options])
    segmented = out / "segmented"
    run("Segment them to files", ["invert.py", "segment", f"--model={distilled}", f"--images={DATA}/shapes-test.zip",
                                  f"--outdir={segmented}"])
    report = out / "report.html"
    run("Write the report", ["eval.py", "report", str(gan), f"--segmented={segmented}", f"--dest={report}"])
    click.echo(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. Masks: {segmented}\n"
               f"Report, open it in a browser: {report.resolve()}")


if __name__ == "__main__":
    main()
