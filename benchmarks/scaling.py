"""How training scales: pictures per second and memory against resolution, batch, processes and size of the data set.

Every point is a fresh run of the real training loop on simulated pictures.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.support.provenance import provenance
from benchmarks.support.training_rounds import Sizes, train_in_rounds
from benchmarks.support.worker import Worker
from benchmarks.training_throughput import BUNDLED, step_seconds
from layered_plugin.command_line import Number, Whole
from layered_plugin.device import choose_precision
from layered_plugin.progress import progress


class Numbers(click.ParamType):
    """Increasing positive integers, separated by commas."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            numbers = [int(part) for part in value.split(",")] if value else []
        except ValueError:
            numbers = [0]
        if min(numbers, default=1) < 1 or numbers != sorted(set(numbers)):
            self.fail(f"must be increasing positive integers with commas, got {value}", param, ctx)
        return numbers


def measure_point(sizes: Sizes, processes: int, num_pictures: int, seconds: float, threads: int) -> dict[str, Any]:
    """Train for some seconds.

    Args:
        sizes: Networks and total batch.
        processes: That share the batch; they meet over gloo.
        num_pictures: Size of the data set.
        seconds: Of training that are timed; two steps at least.
        threads: Of all processes together.

    Returns:
        pictures_per_sec; start_seconds, from the start of the loop to the first step, in which the data set is read;
        peak_memory_mb of the first process.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        workers = []
        for rank in range(processes):
            own = Path(folder, str(rank))
            own.mkdir()
            workers.append(stack.enter_context(Worker(
                f"process {rank} of {processes}", train_in_rounds, env=BUNDLED, sizes=sizes, precision="auto",
                ops="compiled", threads=max(1, threads // processes), folder=str(own), num_pictures=num_pictures,
                rank=rank, processes=processes)))
        started = workers[0].receive()
        workers[0].receive()  # The pair of steps that warms up.
        result = workers[0].round(seconds)
        return dict(pictures_per_sec=sizes.batch / step_seconds(result), peak_memory_mb=result["peak_memory_mb"],
                    start_seconds=started["start_seconds"])


def table(axis: str, points: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row per value of an axis."""
    lines = [f"| {axis} | pictures/s | peak memory of a process | seconds to the first step |", "|---|---|---|---|"]
    lines += [f"| {point[axis]} | {point['pictures_per_sec']:.1f} | {point['peak_memory_mb']:.0f} MiB "
              f"| {point['start_seconds']:.1f} |" for point in points]
    return "\n".join(lines)


@click.command()
@click.option("--resolutions", help="Sides to compare, empty = none", type=Numbers(), default="32,64,128",
              show_default=True)
@click.option("--batches", help="Batches to compare, empty = none", type=Numbers(), default="8,16,32,64",
              show_default=True)
@click.option("--processes", help="Numbers of processes to compare", type=Numbers(), default="1,2", show_default=True)
@click.option("--pictures", help="Sizes of the data set to compare", type=Numbers(),
              default="1000,10000,100000,1000000", show_default=True)
@click.option("--seconds", help="Of timed training per point", metavar="SEC", type=Number(0), default=20,
              show_default=True)
@click.option("--resolution", help="Side where another thing varies", metavar="PX", type=Whole(1), default=32,
              show_default=True)
@click.option("--batch", help="Batch where another thing varies", metavar="INT", type=Whole(2),
              default=32, show_default=True)
@click.option("--cbase", help="Channels x resolution", metavar="INT", type=Whole(1), default=1024, show_default=True)
@click.option("--cmax", help="Most channels of a layer", metavar="INT", type=Whole(1), default=64, show_default=True)
@click.option("--w-dim", help="Width of z and of each half of w", metavar="INT", type=Whole(1), default=128,
              show_default=True)
@click.option("--threads", help="Threads of all processes together", metavar="INT", type=Whole(1),
              default=os.cpu_count(), show_default=True)
def main(resolutions: list[int], batches: list[int], processes: list[int], pictures: list[int], seconds: float,
         resolution: int, batch: int, cbase: int, cmax: int, w_dim: int, threads: int) -> None:
    """Train for some seconds at each point of four axes; JSON on stdout, a table per axis on stderr.

    Precision is that of --precision=auto. Pictures are invented and need no decoding, so the seconds to the first
    step are those of the loop alone; as in training, data sets of up to 4 GB are kept in memory, larger ones are
    read by worker processes.

    \b
    Examples:
    python -m benchmarks.scaling
    python -m benchmarks.scaling --resolutions=64 --batches= --processes= --pictures= --cbase=8192 --cmax=256
    """
    axes = dict(resolution=resolutions, batch=batches, processes=processes, pictures=pictures)
    wanted = [(axis, value) for axis, values in axes.items() for value in values]
    tables: dict[str, list[dict[str, Any]]] = {axis: [] for axis, values in axes.items() if values}
    for axis, value in progress(wanted, len(wanted), "Points"):
        point = dict(dict(resolution=resolution, batch=batch, processes=1, pictures=1000), **{axis: value})
        if point["batch"] % point["processes"]:
            raise click.UsageError(f"--batch must be a multiple of --processes, got {point['batch']} and {value}")
        sizes = Sizes(point["resolution"], cbase, cmax, w_dim, point["batch"])
        tables[axis].append(dict(point, **measure_point(sizes, point["processes"], point["pictures"], seconds,
                                                        threads)))
    for axis, points in tables.items():
        print(table(axis, points) + "\n", file=sys.stderr)
    print(json.dumps(dict(
        tables=tables, precision=choose_precision("auto", "cpu", "bundled")[0], cbase=cbase, cmax=cmax, w_dim=w_dim,
        seconds=seconds, threads=threads, **provenance("benchmarks.scaling")), indent=2))


if __name__ == "__main__":
    main()
