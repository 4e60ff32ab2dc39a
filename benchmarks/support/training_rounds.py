"""The real training loop, step by step and at the word of a benchmark; runs in a worker process.

Nothing of a step is repeated here: ``training_loop`` itself runs, one step a tick, and the clock sits in its two
callbacks, so that the work between two ticks (statistics, log) is outside the times and all else is inside.
"""

import contextlib
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import click
import numpy as np
import PIL.Image
import torch
import torch.distributed
from torch_utils import custom_ops, training_stats
from training.loss import StyleGAN2Loss

import train_layered
from benchmarks.support import zero_insertion
from benchmarks.support.worker import peak_memory_mb
from layered_plugin.command_line import Whole
from layered_plugin.data.pictures import CROP_RATIO
from layered_plugin.model.layers import Layers
from layered_plugin.training.loop import training_loop
from layered_plugin.training.loss import report_layers

R1_EVERY = 2  # Steps; more often than in training, so that both kinds of step are timed in every round.


class Sizes(NamedTuple):
    """Networks and batch of a measurement."""

    resolution: int
    cbase: int
    cmax: int
    w_dim: int
    batch: int
    plain: bool = False  # One ordinary generator in place of the layered one.


def size_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that ``Sizes`` is made of."""
    options = [
        click.option("--resolution", help="Side of the pictures", metavar="PX", type=Whole(1), default=32),
        click.option("--cbase", help="Channels x resolution", metavar="INT", type=Whole(1), default=1024),
        click.option("--cmax", help="Most channels of a layer", metavar="INT", type=Whole(1), default=64),
        click.option("--w-dim", help="Width of z and of each half of w", metavar="INT", type=Whole(1), default=128),
        click.option("--batch", help="Pictures of a step", metavar="INT", type=Whole(2), default=32),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@contextlib.contextmanager
def use_ops(name: str) -> Iterator[None]:
    """While it lasts, training computes in the way of that name.

    ``compiled`` ops; the same with ``two-passes`` of D, one for real and one for generated pictures; ``reference`` ops;
    ``zeros`` inserted, also with two passes, as upstream has it.
    """
    if name in ("compiled", "two-passes"):  # Nothing else may pass for them.
        warnings.filterwarnings("error", message="Cannot build the compiled operations")
    with contextlib.ExitStack() as stack:
        if name == "reference":
            stack.enter_context(custom_ops.reference_ops())  # Of the bundled base; the official one has no such thing.
        if name == "zeros":
            stack.enter_context(zero_insertion.installed())
        if name in ("two-passes", "zeros"):
            stack.enter_context(mock.patch.object(StyleGAN2Loss, "_may_join", return_value=False))
        yield


class PlainLoss(StyleGAN2Loss):
    """The host's loss as the loop takes it: nothing is shifted, and the statistics of layers are those of none."""

    shift = 0

    def set_progress(self, progress: float) -> None:
        """Nothing changes over the run."""

    def accumulate_gradients(self, *args: Any, **kwargs: Any) -> None:
        super().accumulate_gradients(*args, **kwargs)
        report_layers(Layers(*torch.zeros(3, 1, 1, 2, 2)))


def training_config(sizes: Sizes, precision: str, folder: str, num_pictures: int = 1024,
                    processes: int = 1) -> dict[str, Any]:
    """Parameters of ``training_loop`` as ``train_layered.py --cfg=demo`` has them, on simulated pictures.

    Args:
        sizes: Networks and batch.
        precision: Value of ``--precision``.
        folder: Existing folder that is this measurement's own.
        num_pictures: Size of the data set.
        processes: Value of ``--gpus``.
    """
    run_dir, probe = Path(folder), Path(folder, "probe")
    probe.mkdir(parents=True, exist_ok=True)  # The command wants to see a picture.
    PIL.Image.fromarray(np.zeros([8, 8, 3], np.uint8)).save(probe / "0.png")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
        train_layered.main(["-n", f"--outdir={folder}", f"--data={probe}", "--cfg=demo", f"--gpus={processes}",
                            f"--resolution={sizes.resolution}", f"--cbase={sizes.cbase}", f"--cmax={sizes.cmax}",
                            f"--w-dim={sizes.w_dim}", f"--batch={sizes.batch}", "--device=cpu",
                            f"--precision={precision}"], standalone_mode=False)
    config = json.loads(output.getvalue())
    del config["base"]
    size_px = round(sizes.resolution * CROP_RATIO)
    config.update(
        run_dir=str(run_dir), total_kimg=1e9, kimg_per_tick=sizes.batch / 2000, D_reg_interval=R1_EVERY,
        image_snapshot_ticks=None, network_snapshot_ticks=None,
        training_set_kwargs=dict(class_name="benchmarks.support.simulated.SimulatedPictures", num=num_pictures,
                                 size_px=size_px))
    if sizes.plain:
        own = {key: config["G_kwargs"][key] for key in ("z_dim", "w_dim", "mapping_kwargs", "synthesis_kwargs")}
        config["G_kwargs"] = dict(own, class_name="training.networks.Generator")
        losses = {key: config["loss_kwargs"][key] for key in ("r1_gamma", "pl_weight", "style_mixing_prob")}
        config["loss_kwargs"] = dict(losses, class_name="benchmarks.support.training_rounds.PlainLoss")
    return config


class StepClock:
    """Times each step, and holds the loop up between rounds.

    A round is pairs of steps, with R1 and without, as many as begin within the seconds asked for. The first is a
    single pair that warms up; its result is sent without being asked for.
    """

    def __init__(self, conn: Connection):
        self._conn = conn
        self._built = time.perf_counter()
        self._start = 0.0
        self._seconds = 0.0
        self._times: list[float] = []

    def before_step(self, _kimg: float, _total_kimg: float) -> None:
        """The loop's ``progress_fn``, the last thing before a step."""
        if self._times and len(self._times) % R1_EVERY == 0 and sum(self._times) >= self._seconds:
            self._conn.send(dict(with_r1=self._times[::R1_EVERY], without_r1=self._times[1::R1_EVERY],
                                 peak_memory_mb=peak_memory_mb()))
            self._times = []
            self._seconds = self._conn.recv()
        elif not self._times:
            self._conn.send(dict(start_seconds=time.perf_counter() - self._built))
        self._start = time.perf_counter()

    def after_step(self) -> bool:
        """The loop's ``abort_fn``, the first thing after a step."""
        self._times.append(time.perf_counter() - self._start)
        return False


def train_in_rounds(conn: Connection, sizes: Sizes, precision: str, ops: str, threads: int, folder: str,
                    tuned: bool = True, num_pictures: int = 1024, rank: int = 0, processes: int = 1) -> None:
    """Target of a worker: train for ever; the process of rank 0 sends the times of each round.

    Args:
        conn: To the command.
        sizes: Networks and batch.
        precision: Value of ``--precision``.
        ops: Name for ``use_ops``.
        threads: Of this process.
        folder: Folder of this process alone, but for its parent, where processes find each other.
        tuned: With the settings of the process that our loop makes (``device.tune_cpu``), or as it would be without.
        num_pictures: Size of the data set.
        rank: Of this process.
        processes: That train together.
    """
    torch.set_num_threads(threads)
    if processes > 1:
        meeting = Path(folder).absolute().parent / "init"
        torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=processes)
    training_stats.init_multiprocessing(rank=rank, sync_device=torch.device("cpu") if processes > 1 else None)
    config = training_config(sizes, precision, folder, num_pictures, processes)
    clock = StepClock(conn)
    callbacks = dict(progress_fn=clock.before_step, abort_fn=clock.after_step) if rank == 0 else {}
    untuned = mock.patch("layered_plugin.training.setup.tune_cpu")
    with use_ops(ops), contextlib.nullcontext() if tuned else untuned:
        training_loop(rank=rank, **config, **callbacks)
