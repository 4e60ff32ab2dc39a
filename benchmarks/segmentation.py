"""Masks of real pictures, from given generators by one route: train a model on each, score all of them together.

The paper's Table 2 with true masks in Mask R-CNN's place. Resumable: finished models are kept.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import click
import torch

from layered_plugin.calls import typed_command
from layered_plugin.command_line import Whole
from layered_plugin.runs import MODEL_FILE, STATS_FILE, or_go_on

ROUTES = dict(distill=["distill"], encoder=["train", "--mode=dataset"], chunks=["train", "--mode=chunks"])


def train_model(route: str, network: str, data: str, options: tuple[str, ...], outdir: Path) -> Path:
    """Train a model on a generator, or go on with it, or find it finished.

    Raises:
        click.ClickException: The command failed; the text is its last line.
    """
    folder = outdir / f"{route}-{Path(network).name}"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["invert.py", *ROUTES[route], f"--network={network}", f"--data={data}", f"--outdir={folder}", *options]
    return Path(_call(or_go_on(command)).strip().splitlines()[-1])


def _call(args: list[str]) -> str:
    print(shlex.join(["python", *args]), file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, *args], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise click.ClickException(f"{shlex.join(args)} failed")
    return done.stdout


@click.command()
@click.option("--route", help="Kind of model", type=click.Choice(list(ROUTES)), required=True)
@click.option("--network", "networks", help="Run of a generator; repeat for several seeds", metavar="RUN",
              multiple=True, required=True)
@click.option("--data", help="Pictures to train on", metavar="ZIP", required=True)
@click.option("--test-data", help="Pictures to score", metavar="ZIP", required=True)
@click.option("--test-masks", help="Their true masks", metavar="ZIP", required=True)
@click.option("--num", help="Score only the first pictures", metavar="INT", type=Whole(1))
@click.option("--option", "options", help="Further option of invert.py; repeatable", metavar="--NAME=VALUE",
              multiple=True)
@click.option("--refine", help="Refinement when scored", metavar="STEPS", type=Whole(0), default=0)
@click.option("--outdir", help="Where the models go", metavar="DIR", default="runs/segmentation", show_default=True)
def main(route: str, networks: tuple[str, ...], data: str, test_data: str, test_masks: str, num: int | None,
         options: tuple[str, ...], refine: int, outdir: str) -> None:
    """Train models on generators of one data set and score them; JSON on stdout, the table on stderr.

    \b
    Example:
    python -m benchmarks.segmentation --route=distill --network=runs/00000-plants --network=runs/00001-plants \\
        --data=data/plants.zip --test-data=data/plants-test.zip --test-masks=data/plants-test-masks.zip
    """
    models = [train_model(route, network, data, options, Path(outdir)) for network in networks]
    score = ["eval.py", "real", *(f"--model={model}" for model in models), f"--data={test_data}",
             f"--masks={test_masks}", "--baselines=all", f"--refine={refine}"]
    record = json.loads(_call(score if num is None else [*score, f"--num={num}"]))
    seconds = [[json.loads(line)["seconds"] for path in sorted(model.rglob(STATS_FILE))
                for line in path.read_text().splitlines()[-1:]] for model in models]
    trained = [json.loads((model / MODEL_FILE).read_text())["command"] for model in models]
    print(json.dumps(dict(record, route=route, train_commands=trained, last_stage_seconds=seconds,
                          machine=platform.machine(), cpu=torch.backends.cpu.get_cpu_capability(),
                          cores=os.cpu_count(),
                          benchmark=typed_command("-m benchmarks.segmentation")), indent=2))


if __name__ == "__main__":
    main()
