"""Pictures per second of the whole training step: ours in each precision, against slower ways to compute the same.

Every variant is a process of its own that runs the real training loop; they take turns in rounds. Random pictures
and weights: speed does not depend on them.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.support import peak
from benchmarks.support.provenance import provenance
from benchmarks.support.training_rounds import Sizes, size_options, train_in_rounds
from benchmarks.support.worker import Worker
from layered_plugin.base import BASE, BUNDLED_DIR, ENV_NAME
from layered_plugin.command_line import Number, Whole
from layered_plugin.device import choose_precision
from layered_plugin.progress import progress

R1_INTERVAL = 16  # Steps, of training.
BUNDLED = {ENV_NAME: str(BUNDLED_DIR)}


class Variant(NamedTuple):
    """A way to compute the step."""

    precision: str
    ops: str  # As `training_rounds.use_ops` has them.
    tuned: bool  # With the settings of the process that our loop makes?
    what: str


VARIANTS = dict(
    bf16=Variant("bf16", "compiled", True, "this base, compiled ops, bf16"),
    fp32=Variant("fp32", "compiled", True, "this base, compiled ops, fp32"),
    apart=Variant("bf16", "two-passes", True, "this base, compiled ops, bf16, real and generated pictures apart"),
    reference=Variant("fp32", "reference", True, "this base, reference ops, fp32"),
    zeros=Variant("fp32", "zeros", False,
                  "zero-inserting reference, NCHW fp32: our code from upstream's formulas, not the official base"),
    official=Variant("fp32", "compiled", False, "the official base, fp32, its CPU path"),
)
OURS = ("bf16", "fp32")  # What the others are compared with; --precision=auto is one of them.


def choose_variants(text: str | None) -> list[str]:
    """Names out of ``--variants``, or all that can be measured here.

    Raises:
        click.UsageError: A name is unknown, comes twice, or needs an official base that is not there.
    """
    names = text.split(",") if text else [name for name in VARIANTS if name != "official" or BASE.name == "official"]
    for name in names:
        if name not in VARIANTS or names.count(name) > 1:
            raise click.UsageError(f"--variants must be some of {','.join(VARIANTS)}, each once, got {text}")
    if "official" in names and BASE.name != "official":
        raise click.UsageError(f"--variants=official needs a checkout of the official base, at the path in {ENV_NAME} "
                               "or under vendor/ (vendor/README.md)")
    return names


def measure(names: Sequence[str], sizes: Sizes, num_rounds: int, seconds: float, threads: int,
            tune_all: bool) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float], list[list[dict[str, Any]]]]:
    """Let the variants, and the bare convolutions, work in turns.

    Returns:
        Each variant's results by round, the FLOPs of a step per picture by phase, and the speeds of convolutions by
        round.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())

        def start(name: str, target: Any, env: Mapping[str, str], **kwargs: Any) -> tuple[Worker, Any]:
            own = Path(folder, name)
            own.mkdir()
            worker = stack.enter_context(Worker(name, target, env=env, sizes=sizes, threads=threads, folder=str(own),
                                                **kwargs))
            return worker, worker.receive()

        bare, flops = start("convolutions", peak.measure_in_rounds, BUNDLED)
        workers = {}
        for name in progress(names, len(names), "Variants built"):
            variant = VARIANTS[name]
            env = {ENV_NAME: str(BASE.path)} if name == "official" else BUNDLED
            workers[name], _started = start(name, train_in_rounds, env, precision=variant.precision, ops=variant.ops,
                                            tuned=variant.tuned or tune_all)
            workers[name].receive()  # The pair of steps that warms up.
        times: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        speeds = []
        for _ in progress(range(num_rounds), num_rounds, "Rounds"):
            for name, worker in workers.items():
                times[name].append(worker.round(seconds))
            speeds.append(bare.round(seconds))
    return times, flops, speeds


def step_seconds(result: Mapping[str, Sequence[float]]) -> float:
    """Mean step of a round, with R1 in the proportion that training uses it: one step in 16."""
    parts = [float(np.median(result[key])) for key in ("with_r1", "without_r1")]
    return (parts[0] + (R1_INTERVAL - 1) * parts[1]) / R1_INTERVAL


def summarize(times: Mapping[str, list[dict[str, Any]]], flops: Mapping[str, float],
              rows: list[dict[str, Any]], batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Speeds, ratios and shares of the limit.

    Args:
        times: Of each variant, by round.
        flops: Of a step per picture, by phase.
        rows: Best speeds of the bare convolutions.
        batch: Pictures of a step.

    Returns:
        Results by variant, among them how many times as long as those of `OURS` it takes; and the limit by number
        format.
    """
    per_picture = sum(num / (R1_INTERVAL if phase == "Dreg" else 1) for phase, num in flops.items())
    limit = {}
    for dtype in peak.DTYPES:
        best, typical = peak.peak_speed(rows, dtype), peak.typical_speed(rows, dtype)
        limit[dtype] = dict(peak_gflops=best / 1e9, typical_gflops=typical / 1e9,
                            pictures_per_sec=best / per_picture, typical_pictures_per_sec=typical / per_picture)
    variants = {}
    steps = {name: np.array([step_seconds(result) for result in results]) for name, results in times.items()}
    for name, results in times.items():
        speed = batch / float(np.median(steps[name]))
        ratios = {ours: steps[name] / steps[ours] for ours in OURS if ours in times}
        variants[name] = dict(
            what=VARIANTS[name].what, pictures_per_sec=speed, pictures_per_sec_best=batch / min(steps[name]),
            step_ms={key: 1e3 * float(np.median(np.concatenate([result[key] for result in results])))
                     for key in ("with_r1", "without_r1")},
            times_as_long_as={ours: dict(median=float(np.median(each)), least=min(each), largest=max(each))
                              for ours, each in ratios.items()},
            share_of_limit=speed / limit[VARIANTS[name].precision]["pictures_per_sec"],
            share_of_typical=speed / limit[VARIANTS[name].precision]["typical_pictures_per_sec"],
            peak_memory_mb=max(result["peak_memory_mb"] for result in results),
            rounds_step_seconds=list(steps[name]))
    return variants, dict(limit, gflops_per_picture=per_picture / 1e9)


def table(variants: Mapping[str, dict[str, Any]], limit: Mapping[str, Any]) -> str:
    """Markdown: a row per variant, then the limit."""
    ours = [name for name in OURS if name in variants]
    compared = "".join(f" {name} is so many times faster, median (least, largest) |" for name in ours)
    lines = ["| variant | pictures/s, median (best) | step, step with R1 |"
             f"{compared} share of the limit | peak memory |", "|---|---|---|" + "---|" * len(ours) + "---|---|"]
    for found in variants.values():
        ratios = [found["times_as_long_as"][name] for name in ours]
        shown = "".join(f" {each['median']:.2f} ({each['least']:.2f}, {each['largest']:.2f}) |" for each in ratios)
        lines.append(
            f"| {found['what']} | {found['pictures_per_sec']:.1f} ({found['pictures_per_sec_best']:.1f}) "
            f"| {found['step_ms']['without_r1']:.0f} ms, {found['step_ms']['with_r1']:.0f} ms |{shown} "
            f"{found['share_of_limit']:.0%} | {found['peak_memory_mb']:.0f} MiB |")
    lines += [f"| limit in {dtype}: {limit['gflops_per_picture']:.2f} GFLOP a picture at "
              f"{limit[dtype]['peak_gflops']:.0f} GFLOP/s | {limit[dtype]['pictures_per_sec']:.1f} | |"
              + " |" * len(ours) + " 100% | |" for dtype in peak.DTYPES]
    return "\n".join(lines)


@click.command(context_settings=dict(show_default=True))
@size_options
@click.option("--rounds", help="Turns of each variant", metavar="INT", type=Whole(1), default=7)
@click.option("--seconds", help="Of a turn, but no less than two steps", metavar="SEC",
              type=Number(0), default=3)
@click.option("--threads", help="Threads of each variant", metavar="INT", type=Whole(1),
              default=os.cpu_count())
@click.option("--variants", help=f"Some of {','.join(VARIANTS)}  [default: all there are]", metavar="LIST")
@click.option("--plain", help="One ordinary generator, no layers", is_flag=True)
@click.option("--tune-all", help="Our allocator settings for zeros and official", is_flag=True)
def main(rounds: int, seconds: float, threads: int, variants: str | None, plain: bool, tune_all: bool,
         **widths: int) -> None:
    """Time the training step of each variant in turns; JSON on stdout, the table on stderr.

    A step is all of an iteration of training: pictures from memory, generator and discriminator, R1 (one step in
    16), Adam, moving average, statistics. The limit is the time that its convolutions and matrix products alone
    would take at the speed of the fastest 3x3 convolution of these sizes in the same number format, measured in the
    same rounds. `official` needs a checkout of the official base; without one, `zeros` is the nearest thing. Both go
    without the settings of allocator and denormals that our loop makes, unless --tune-all.

    \b
    Examples:
    python -m benchmarks.training_throughput
    python -m benchmarks.training_throughput --resolution=64 --cbase=8192 --cmax=256 --rounds=3
    python -m benchmarks.training_throughput --variants=bf16,zeros --plain
    """
    names = choose_variants(variants)
    auto, reason = choose_precision("auto", "cpu", "bundled")
    sizes = Sizes(**widths, plain=plain)
    times, flops, speeds = measure(names, sizes, rounds, seconds, threads, tune_all)
    rows = peak.best_speeds(speeds)
    found, limit = summarize(times, flops, rows, sizes.batch)
    print(table(found, limit), file=sys.stderr)
    missing = {} if BASE.name == "official" else dict(official=f"no checkout: {ENV_NAME} is not set")
    print(json.dumps(dict(
        variants=found, auto=auto, auto_because=reason, limit=limit, not_measured=missing,
        gflops_by_phase={phase: num / 1e9 for phase, num in flops.items()}, convolutions=rows, **sizes._asdict(),
        rounds=rounds, seconds=seconds, threads=threads, tune_all=tune_all,
        **provenance("benchmarks.training_throughput")), indent=2))


if __name__ == "__main__":
    main()
