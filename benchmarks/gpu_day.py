"""Everything that is to be measured on a GPU, in one call that ends in time.

Each step is a process of its own with a time limit; one that fails or runs out of time does not stop the next.
Results are written as they come.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.gpu import tables
from benchmarks.gpu.step_process import read_records, write_record
from layered_plugin.command_line import Number, user_errors
from layered_plugin.device import choose_device

# Name -> share of the time, in relation to the other steps that are asked for.
STEPS = dict(card=65, tests=80, ops=50, step=180, train=300, segment=45, compile=120)
DEFAULT = "card,tests,ops,step,train,segment"
MAX_STARTS = 5  # Of a step whose process dies; each goes on behind the case that ended the one before.
LEAST_SECONDS = 5.0


def choose_steps(text: str) -> list[str]:
    """Names out of ``--steps``, in the order given.

    Raises:
        click.UsageError: A name is unknown or comes twice.
    """
    names = text.split(",")
    for name in names:
        if name not in STEPS or names.count(name) > 1:
            raise click.UsageError(f"--steps must be some of {','.join(STEPS)}, each once, got {text}")
    return names


def limit_of(name: str, names: list[str], seconds: float) -> float:
    """Seconds for a step: its share of what is left, so that what one step spares, the later ones get.

    Args:
        name: Of the step.
        names: All steps that are still to come, this one among them.
        seconds: That are left for them.
    """
    return seconds * STEPS[name] / sum(STEPS[other] for other in names)


def run_step(name: str, outdir: Path, log: Path, seconds: float, arguments: list[str]) -> str:
    """Run a step's process until it ends or its time is up; again if it dies between two cases.

    Returns:
        What became of it, in words.
    """
    deadline = time.time() + seconds
    for start in range(MAX_STARTS):
        left = deadline - time.time()
        if left < LEAST_SECONDS:
            break
        before = len(read_records(outdir))
        command = [sys.executable, "-m", "benchmarks.gpu", f"--step={name}", f"--deadline={deadline}", *arguments]
        with open(log, "a") as output:
            print(f"\n===== {name}, start {start + 1}, {left:.0f} s left", file=output, flush=True)
            process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=subprocess.STDOUT, start_new_session=True)
            try:
                code = process.wait(left)
            except subprocess.TimeoutExpired:
                return "ran out of time"
            finally:
                with contextlib.suppress(ProcessLookupError):  # What it has started ends with it.
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code == 0:
            return "done"
        if len(read_records(outdir)) == before:
            return f"failed with code {code} before its first result"
    return "failed: too many of its cases ended its process"


@click.command(context_settings=dict(show_default=True))
@click.option("--outdir", help="Where to save the results", metavar="DIR", required=True)
@click.option("--minutes", help="Time for all steps together", metavar="MIN", type=Number(0.1),
              default=12.0)
@click.option("--steps", help=f"Some of {','.join(STEPS)}, in order", metavar="LIST", default=DEFAULT)
@click.option("--device", help="Where to compute", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--quick", help="Tiny sizes, to rehearse", is_flag=True)
@click.option("--data", help="Folder with train.zip, test-masked.zip and test-masks, and test.zip if there is one  "
              "[default: shapes made on the spot]", metavar="DIR")
@click.option("--train-args", help="Further options of train_layered.py in step train", metavar="TEXT", default="")
@click.option("--workdir", help="For large files  [default: a temporary folder]", metavar="DIR")
def main(outdir: str, minutes: float, steps: str, device: str, quick: bool, data: str | None, train_args: str,
         workdir: str | None) -> None:
    """Measure all that a GPU is needed for, step by step, and write results.jsonl, tables.md and log.txt.

    card: what is there, and the CUDA operations built from nothing. tests: those marked gpu. ops: each operation
    against the reference and against the memory's bandwidth. step: pictures a second of the training step. train:
    training on --data as long as the time allows, distilling, scores. segment: pictures a second of the distilled
    segmenter. compile: a generator's step as a CUDA graph and by torch.compile. The masks in --data are only for
    scoring. Packages that are missing are named in log.txt.

    \b
    Examples:
    python -m benchmarks.gpu_day --outdir=gpu --device=cpu --quick --minutes=5
    python -m benchmarks.gpu_day --outdir=gpu --minutes=5 --steps=card,tests,ops,step
    python -m benchmarks.gpu_day --outdir=gpu --minutes=6 --steps=train,segment --data=data/clothing
    """
    names = choose_steps(steps)
    if data is not None and not Path(data).is_dir():
        raise click.UsageError(f"--data: no such folder: {data}")
    with user_errors():
        device = choose_device(device)
    end = time.time() + 60 * minutes
    out = Path(outdir).absolute()
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-day-"))
        Path(work).mkdir(parents=True, exist_ok=True)
        arguments = [f"--outdir={out}", f"--workdir={Path(work).absolute()}", f"--device={device}",
                     f"--train-args={train_args}", *(["--quick"] if quick else []),
                     *([f"--data={Path(data).absolute()}"] if data else [])]
        for idx, name in enumerate(names):
            start = time.time()
            limit = limit_of(name, names[idx:], end - start)
            click.echo(f"{name}: up to {limit:.0f} s", err=True)
            outcome = run_step(name, out, out / "log.txt", limit, arguments)
            write_record(out, step=name, case="step", status="ok" if outcome == "done" else "failed", outcome=outcome,
                         wall_s=time.time() - start, limit_s=limit, device=device)
            click.echo(f"{name}: {outcome}, {time.time() - start:.0f} s", err=True)
            (out / "tables.md").write_text(tables.all_tables(read_records(out)))
    click.echo((out / "tables.md").read_text())


if __name__ == "__main__":
    main()
