"""What a training does once per tick: statistics, warnings, pictures, snapshots, logs."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch_utils import misc, training_stats

from layered_plugin import errors, grids, runs
from layered_plugin.model import snapshots
from layered_plugin.training import guards
from layered_plugin.training.metrics import SnapshotMetrics
from layered_plugin.training.processes import Process
from layered_plugin.training.run_log import RunLog, tick_stats
from layered_plugin.training.sample_view import SampleView
from layered_plugin.training.scene_variety import SceneVariety
from layered_plugin.training.state import TrainingState


class Schedule(NamedTuple):
    """How long a run is and how often what is written, as the parameters of the loop say it."""

    total_kimg: float
    kimg_per_tick: float
    image_snapshot_ticks: int | None
    network_snapshot_ticks: int | None
    snapshot_minutes: float | None


@dataclass
class Maintenance:
    """The tasks of a tick, in one process; all processes tick together.

    Everything that is written is whole or absent. Only rank 0 has a log and a view, and writes. The first tick
    begins when it is entered.
    """

    run: TrainingState
    process: Process
    schedule: Schedule
    measure: SnapshotMetrics
    training_set: Any
    training_set_kwargs: dict[str, Any]
    shift_px: int  # Largest shift of the shown scenes.
    run_dir: Path
    batch_size: int
    on_collapse: str
    progress_fn: Callable[[int, float], None] | None
    start_time: float  # When the training began, before its set-up.
    log: RunLog | None = None

    def __post_init__(self) -> None:
        G, rank, seed = self.run.G_ema, self.process.rank, self.process.seed
        self.view = SampleView(G, self.training_set, seed, self.shift_px) if rank == 0 else None
        self.variety = SceneVariety(self.training_set, G.img_resolution, seed) if rank == 0 else None

    def __enter__(self) -> None:
        if self.process.rank == 0:
            self.log = RunLog(self.run_dir, self.schedule.total_kimg, self.run.cur_nimg)
        self._stats = training_stats.Collector(regex=".*")
        self._begin_tick(since=self.start_time)
        self._saved_at = time.monotonic()
        if self.progress_fn is not None:
            self.progress_fn(self.run.cur_nimg // 1000, self.schedule.total_kimg)

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        if kind is not None and issubclass(kind, errors.PictureError | errors.MaskError):
            self.save()  # What was learnt before is worth keeping.
        if self.log is not None:
            self.log.close()

    def _begin_tick(self, since: float) -> None:
        self._tick_start_nimg, self._tick_start_time = self.run.cur_nimg, time.time()
        self._maintenance_sec = self._tick_start_time - since

    def save_first_pictures(self, new: bool) -> None:
        """Grid of real pictures; of a new run, another of what it draws before it learns."""
        if self.view is not None:
            grids.save_picture(self.view.reals(), self.run_dir / "reals.png")
            if new:
                grids.save_picture(self.view.fakes(self.run.G_ema), self.run_dir / "fakes_init.png")

    def count_batch(self) -> None:
        """Note that a batch has been learnt from, and move the bar on."""
        self.run.cur_nimg += self.batch_size
        self.run.batch_idx += 1
        if self.log is not None:
            self.log.advance(self.batch_size)

    def due(self) -> bool:
        """Whether a tick's pictures have been shown; the first step makes a tick by itself, as the host has it."""
        shown = self.run.cur_nimg - self._tick_start_nimg
        return self.run.cur_tick == 0 or shown >= self.schedule.kimg_per_tick * 1000

    def overdue(self) -> bool:
        """Whether the last snapshot of this process is older than it may be, so that a tick comes early."""
        age, most = time.monotonic() - self._saved_at, self.schedule.snapshot_minutes
        return most is not None and age >= most * 60

    def tick(self, ending: bool, save: bool = False) -> None:
        """Do what is due; at the end of a run everything is.

        Args:
            ending: Is this the last tick?
            save: Save the networks, due or not?

        Raises:
            errors.UserError: A loss was not finite in the tick.
            errors.CollapsedError: The layers stayed collapsed, and on_collapse is not "warn".
        """
        run, schedule, end_time = self.run, self.schedule, time.time()
        self._stats.update()
        stats = self._stats.as_dict()
        losses = {name: value for name, value in stats.items() if name.startswith("Loss/")}
        guards.check_finite(losses, "any", run.cur_nimg / 1000)
        stats.update(tick_stats(run, self.process.device, self.start_time, self._tick_start_time, end_time,
                                run.cur_nimg - self._tick_start_nimg, self._maintenance_sec))
        if self.log is not None:
            self.log.tick(stats, run.cur_nimg)
        due_findings, lasting_findings = run.watch.update(stats, run.cur_nimg / 1000)
        for text in due_findings if self.process.rank == 0 else []:
            print(f"WARNING: {text}")

        number = run.cur_tick
        run.cur_tick += 1
        G_shown = run.G_ema if run.fade is None else run.fade.baked(run.G_ema)
        pictures = {}
        if self.view is not None and _is_due(schedule.image_snapshot_ticks, number, ending):
            pictures = self._save_pictures(self.view, G_shown)
        if save or _is_due(schedule.network_snapshot_ticks, number, ending):
            self._save_networks()
            stats.update(self.measure(G_shown, snapshots.snapshot_path(self.run_dir, run.cur_nimg)))
            self._saved_at = time.monotonic()
            if self.variety is not None:
                stats.update(self.variety(G_shown))
        if self.log is not None:
            self.log.write(stats, run.cur_nimg / 1000, {name: np.asarray(pic) for name, pic in pictures.items()})
        if self.progress_fn is not None:
            self.progress_fn(run.cur_nimg // 1000, schedule.total_kimg)
        if lasting_findings and self.on_collapse != "warn" and not ending:
            self._wait_for_all()
            raise errors.CollapsedError(f"at kimg {run.cur_nimg / 1000:.1f}: {'; '.join(lasting_findings)}")
        self._begin_tick(since=end_time)

    def save(self) -> None:
        """Snapshot and training state between ticks, if anything was learnt since the last; all processes together."""
        if self.run.cur_nimg > self._tick_start_nimg:
            self._save_networks()

    def _save_pictures(self, view: SampleView, G: torch.nn.Module) -> dict[str, PIL.Image.Image]:
        pictures = dict(fakes=view.fakes(G), layers=view.layers(G))
        for name, picture in pictures.items():
            grids.save_picture(picture, self.run_dir / f"{name}{self.run.cur_nimg // 1000:06d}.png")
        return pictures

    def _save_networks(self) -> None:
        """Snapshot, then training state."""
        run, kimg = self.run, self.run.cur_nimg // 1000
        if self.process.num_gpus > 1:
            for module in (run.G, run.D, run.G_ema):
                misc.check_ddp_consistency(module, ignore_regex=r".*\.w_avg")
        packed = run.pack(self.batch_size, self.process.num_gpus, self.process.device)
        if self.process.rank == 0:
            _save_snapshot(snapshots.snapshot_path(self.run_dir, run.cur_nimg), run, self.training_set_kwargs)
            runs.save_training_state(self.run_dir, kimg, packed)
        self._wait_for_all()

    def _wait_for_all(self) -> None:
        """Let no process end before all of them are here: who ends with an error has the others killed soon after."""
        if self.process.num_gpus > 1:
            torch.distributed.barrier()


def _is_due(every: int | None, tick: int, ending: bool) -> bool:
    return bool(every) and (ending or tick % every == 0)  # type: ignore[operator]


def _save_snapshot(path: Path, run: TrainingState, training_set_kwargs: dict) -> None:
    """Write the host's network pickle: CPU copies in evaluation mode."""
    data: dict[str, Any] = dict(training_set_kwargs=dict(training_set_kwargs))
    for name in ("G", "D", "G_ema", "augment_pipe"):
        module = getattr(run, name)
        if run.fade is not None and name in ("G", "G_ema"):
            module = run.fade.baked(module)
        data[name] = None if module is None else copy.deepcopy(module).eval().requires_grad_(False).cpu()
    snapshots.save_network_pkl(path, data)
