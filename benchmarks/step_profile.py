"""Where a training step spends its time, by kind of operation: what is left to gain once convolutions are fast.

The real training loop runs under PyTorch's profiler, on random pictures and weights: speed does not depend on them.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile
from torch_utils import training_stats

from benchmarks.flops import count_step_flops
from benchmarks.support.provenance import provenance
from benchmarks.support.training_rounds import Sizes, size_options, training_config, use_ops
from layered_plugin.command_line import Whole
from layered_plugin.device import PRECISIONS
from layered_plugin.training.loop import training_loop

R1_INTERVAL = 16  # Steps, of training.
WARM_UP = 2  # Steps, one of them with R1.
KINDS = {  # Operations whose own time counts, by the start of their name.
    "convolutions": ("aten::convolution", "aten::_convolution", "aten::mkldnn_convolution"),
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"),
    "bias, activation, scale": ("FusedBiasAct", "_SlopeProduct", "_Dot"),
    "resampling": ("_CompiledResample",),
    "copies and casts": ("aten::copy_",),
    "Adam, moving average": ("aten::_fused_adam", "Optimizer.step", "aten::lerp_", "aten::_foreach"),
}


class Stopwatch:
    """The loop's two callbacks: profiles so many steps after those that warm up, then ends the training."""

    def __init__(self, num_steps: int):
        self.num_steps, self.step = num_steps, 0
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.seconds = self._start = 0.0

    def before_step(self, _kimg: float, _total_kimg: float) -> None:
        if self.step == WARM_UP:
            self.profiler.start()
        self._start = time.process_time()

    def after_step(self) -> bool:
        """True = enough."""
        if self.step >= WARM_UP:
            self.seconds += time.process_time() - self._start
        self.step += 1
        done = self.step == WARM_UP + self.num_steps
        if done:
            self.profiler.stop()
        return done


def by_kind(times: Mapping[str, float]) -> dict[str, float]:
    """Sum up operations.

    Args:
        times: Own time of each operation by name.

    Returns:
        Time by kind: those of `KINDS` and `other operations`.
    """
    found = dict.fromkeys([*KINDS, "other operations"], 0.0)
    for name, value in times.items():
        kind = next((kind for kind, starts in KINDS.items() if name.startswith(starts)), "other operations")
        found[kind] += value
    return found


def profile_step(sizes: Sizes, precision: str, num_steps: int, folder: str) -> tuple[dict[str, float], float]:
    """CPU milliseconds of a mean step by kind of operation, and altogether.

    Args:
        sizes: Networks and batch.
        precision: Value of ``--precision``.
        num_steps: Steps that are profiled; every 16th has R1.
        folder: Existing empty folder.
    """
    config = training_config(sizes, precision, folder)
    config["D_reg_interval"] = R1_INTERVAL
    training_stats.init_multiprocessing(rank=0, sync_device=None)
    watch = Stopwatch(num_steps)
    with use_ops("compiled"), contextlib.redirect_stdout(io.StringIO()):
        training_loop(rank=0, **config, progress_fn=watch.before_step, abort_fn=watch.after_step)
    times = {event.key: event.self_cpu_time_total / 1e3 / num_steps for event in watch.profiler.key_averages()}
    total = 1e3 * watch.seconds / num_steps
    kinds = by_kind(times)
    kinds["Python, the profiler"] = max(0.0, total - sum(kinds.values()))
    return kinds, total


def table(kinds: Mapping[str, float], total: float) -> str:
    """Markdown: a row per kind."""
    lines = ["| operations | ms a step | share |", "|---|---|---|"]
    lines += [f"| {kind} | {value:.1f} | {value / total:.0%} |" for kind, value in kinds.items()]
    return "\n".join([*lines, f"| all | {total:.1f} | |"])


@click.command(context_settings=dict(show_default=True))
@size_options
@click.option("--precision", help="Number format of the convolutions", type=click.Choice(PRECISIONS), default="auto")
@click.option("--steps", help="Steps profiled", metavar="INT", type=Whole(1), default=R1_INTERVAL)
@click.option("--threads", help="Of the step", metavar="INT", type=Whole(1), default=1)
def main(precision: str, steps: int, threads: int, **sizes: Any) -> None:
    """Profile the training step on the CPU; JSON on stdout, the table on stderr.

    Times are CPU time, so other work on the machine matters little; the profiler itself makes small operations look
    slower. GFLOP/s are those of all convolutions and matrix products.

    \b
    Examples:
    python -m benchmarks.step_profile
    python -m benchmarks.step_profile --precision=fp32
    """
    torch.set_num_threads(threads)
    chosen = Sizes(**sizes)
    with tempfile.TemporaryDirectory() as folder:
        kinds, total = profile_step(chosen, precision, steps, folder)
        flops = count_step_flops(training_config(chosen, "fp32", folder)).by_phase
    per_step = chosen.batch * sum(num / (R1_INTERVAL if phase == "Dreg" else 1) for phase, num in flops.items())
    arithmetic = kinds["convolutions"] + kinds["matrix products"]
    gflops = per_step / 1e6 / arithmetic
    print(table(kinds, total), file=sys.stderr)
    print(f"Convolutions and matrix products: {per_step / 1e9:.1f} GFLOP a step, {gflops:.0f} GFLOP/s", file=sys.stderr)
    print(json.dumps(dict(ms_by_kind=kinds, ms=total, gflop_per_step=per_step / 1e9, gflop_per_sec=gflops,
                          precision=precision, steps=steps, threads=threads, **chosen._asdict(),
                          **provenance("benchmarks.step_profile")), indent=2))


if __name__ == "__main__":
    main()
