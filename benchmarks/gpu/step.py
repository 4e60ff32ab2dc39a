"""Step ``step``: the real training loop, by resolution, precision, operations and batch size.

Ticks of 16 steps are timed, so that R1 and the loop's statistics are in them as in training.
"""

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch_utils import custom_ops, training_stats

from benchmarks.gpu.step_config import training_config
from benchmarks.gpu.step_process import Context, run_cases, synchronize
from layered_plugin.training.loop import training_loop

STEPS_PER_TICK = 16  # As often as R1 runs.
SECONDS = 2.0  # That are measured, at least, after a tick that warms up.


class Case(NamedTuple):
    """A way to compute the step."""

    resolution: int
    precision: str = "fp16"
    layout: str = "nhwc"  # Of half precision.
    ops: str = "ours"  # Or reference.
    batch: int | None = None  # None = auto's.
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        parts = [f"{self.resolution}px", self.precision, self.layout if self.precision in ("fp16", "bf16") else "",
                 self.ops, f"batch{self.batch}" if self.batch else "", *(text.lstrip("-") for text in self.options)]
        return " ".join(part for part in parts if part)


def choose(quick: bool) -> list[Case]:
    """What is asked for first comes first: the time may end before the list does."""
    if quick:
        return [Case(16, "fp32", ops="reference"), Case(16, "bf16"), Case(16, "bf16", options=("--aug=ada",))]
    return [
        Case(64), Case(64, "fp32", ops="reference"), Case(128), Case(64, batch=128),
        Case(64, "fp32", ops="reference", batch=128), Case(64, batch=64), Case(64, "fp32", ops="reference", batch=64),
        Case(128, "fp32", ops="reference"), Case(128, batch=128), Case(64, layout="nchw"),
        Case(64, "bf16"), Case(64, "bf16", batch=128), Case(128, "bf16"), Case(32),
        Case(64, ops="reference"), Case(64, "fp32"), Case(64, "tf32"), Case(128, batch=64), Case(64, batch=256),
        Case(256), Case(64, batch=64, options=("--cbase=8192", "--cmax=256")), Case(64, options=("--aug=ada",)),
        Case(32, "fp32", ops="reference"), Case(32, batch=128), Case(128, layout="nchw"), Case(128, ops="reference"),
        Case(256, "bf16"), Case(128, "tf32"), Case(128, "fp32"),
        Case(256, "fp32", ops="reference"), Case(256, batch=64), Case(256, "tf32"), Case(32, "tf32"),
    ]


def main(context: Context) -> int:
    """Run the step, and count operations in a process beside it."""
    options = small_networks(context.quick)
    cases = choose(context.quick)
    resolutions = ",".join(map(str, dict.fromkeys(case.resolution for case in cases)))
    counter = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu.flop_count", str(context.outdir), resolutions,
                                *options], cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL)
    try:
        code = run_cases(context, ((case.name, partial(measure, context, case)) for case in cases), seconds=8)
        with contextlib.suppress(subprocess.TimeoutExpired):
            counter.wait(max(context.seconds_left - 2, 0.1))
        return code
    finally:
        counter.kill()


def small_networks(quick: bool) -> list[str]:
    """Options of a rehearsal, which has no time for networks of the usual width."""
    return ["--cbase=128", "--cmax=8", "--w-dim=16", "--batch=4"] if quick else []


class TickClock:
    """The loop's two callbacks: times each tick but for the first two, and ends the training after enough of them."""

    def __init__(self, device: str, seconds: float):
        self.device, self.seconds = device, seconds
        self.ticks: list[float] = []
        self.num_ticks = self.peak_memory = 0
        self._start = 0.0

    def before(self, _kimg: float, _total_kimg: float) -> None:
        """The loop's ``progress_fn``, the last thing before a tick."""
        synchronize(self.device)
        self._start = time.perf_counter()

    def after(self) -> bool:
        """The loop's ``abort_fn``, the first thing after a tick; True = enough."""
        synchronize(self.device)
        seconds = time.perf_counter() - self._start
        self.num_ticks += 1
        if self.device == "cuda":
            self.peak_memory = max(self.peak_memory, torch.cuda.max_memory_allocated())
        if self.num_ticks > 2:  # The first is a single step, and the next may choose algorithms still.
            self.ticks.append(seconds)
        return sum(self.ticks) >= self.seconds


def measure(context: Context, case: Case) -> dict[str, Any]:
    """Pictures a second and memory of a case."""
    device = context.device
    options = ["--aug=noaug", *small_networks(context.quick), *case.options]
    options.append(f"--precision={'fp32' if case.precision == 'tf32' else case.precision}")
    if case.precision == "tf32":
        options.append("--allow-tf32=1")
    if case.layout == "nhwc" and case.precision == "fp16":
        options.append("--nhwc=1")
    if case.batch:
        options.append(f"--batch={case.batch}")
    config = training_config(case.resolution, device, options)
    if case.layout == "nchw":
        for kwargs in (config["G_kwargs"]["synthesis_kwargs"], config["D_kwargs"]["block_kwargs"]):
            kwargs["fp16_channels_last"] = False
    batch = config["batch_size"]
    folder = context.workdir / "step"
    folder.mkdir(parents=True, exist_ok=True)
    config.update(run_dir=str(folder), kimg_per_tick=batch * STEPS_PER_TICK / 1000)
    training_stats.init_multiprocessing(rank=0, sync_device=None)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    clock = TickClock(device, 0.1 if context.quick else SECONDS)
    with ops(case.ops), contextlib.redirect_stdout(io.StringIO()):
        training_loop(rank=0, **config, progress_fn=clock.before, abort_fn=clock.after)
    step = sum(clock.ticks) / len(clock.ticks) / STEPS_PER_TICK
    return dict(case._asdict(), batch=batch, step_ms=1e3 * step, pictures_per_s=batch / step,
                peak_memory_gib=clock.peak_memory / 2**30, ticks=len(clock.ticks))


@contextlib.contextmanager
def ops(name: str) -> Iterator[None]:
    """While it lasts, training computes with these operations."""
    with custom_ops.reference_ops() if name == "reference" else contextlib.nullcontext():
        yield
