"""The process of one step; ``benchmarks.gpu_day`` starts it."""

import importlib
import sys
from pathlib import Path

import click

import layered_plugin  # noqa: F401 - activates the base
from benchmarks.gpu.step_process import Context


@click.command()
@click.option("--step", required=True)
@click.option("--outdir", required=True, type=Path)
@click.option("--workdir", required=True, type=Path)
@click.option("--device", required=True)
@click.option("--quick", is_flag=True)
@click.option("--deadline", required=True, type=float)
@click.option("--data", type=Path)
@click.option("--train-args", default="")
def main(**options) -> None:
    """Run one step."""
    module = importlib.import_module(f"benchmarks.gpu.{options['step']}")
    sys.exit(module.main(Context(**options)))


if __name__ == "__main__":
    main()
