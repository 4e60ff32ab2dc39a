"""What a run writes as it goes: the host's tick line, stats.jsonl and tfevents, and a progress bar."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dnnlib
import numpy as np
import psutil
import torch
from tqdm import tqdm

from layered_plugin.files import NO_ROOM, cut_torn_line, room_for
from layered_plugin.progress import on_terminal
from layered_plugin.runs import STATS_FILE
from layered_plugin.training.state import TrainingState


class RunLog:
    """Tick line on stdout, ``stats.jsonl`` and tfevents in the run folder, a bar on stderr if it is a terminal.

    Args:
        run_dir: Existing run folder.
        total_kimg: Length of the run in thousands of real pictures.
        start_nimg: Pictures shown before this start; above 0 the files are continued, later steps of tfevents void.

    Here, and wherever it writes: DiskFullError, with the file.
    """

    def __init__(self, run_dir: str | os.PathLike, total_kimg: float, start_nimg: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # Takes long to import.

        self.total_nimg = round(total_kimg * 1000)
        self.start_nimg = start_nimg
        self.start_time = time.time()
        self.stats_path, self.events_path = Path(run_dir) / STATS_FILE, Path(run_dir) / "events.out.tfevents.*"
        if start_nimg > 0:
            cut_torn_line(self.stats_path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_threads_silent_of_full_disks())
            stack.enter_context(room_for(self.stats_path))
            self.jsonl = stack.enter_context(open(self.stats_path, "at" if start_nimg > 0 else "wt"))
            stack.enter_context(room_for(self.events_path))
            # Readers then drop what an earlier start wrote after the state that this one goes on from.
            void_from = start_nimg // 1000 + 1 if start_nimg > 0 else None
            self.events = SummaryWriter(os.fspath(run_dir), purge_step=void_from)
            stack.callback(self.events.close)
            self.bar = stack.enter_context(tqdm(
                total=self.total_nimg, initial=start_nimg, unit="img", unit_scale=True, dynamic_ncols=True,
                disable=not on_terminal(), file=sys.__stderr__))
            self._open = stack.pop_all()

    def advance(self, num: int) -> None:
        """Move the bar on by a number of pictures."""
        self.bar.update(num)

    def tick(self, stats: dict[str, Any], cur_nimg: int) -> None:
        """Print the host's status line by a tick's {num, mean, std}, then mask coverage, speed and time to go."""
        def mean(name: str) -> float:
            return stats[name]["mean"]

        speed = (cur_nimg - self.start_nimg) / max(time.time() - self.start_time, 1e-9)
        self.bar.clear()
        print(" ".join([
            f"tick {round(mean('Progress/tick')):<5d}",
            f"kimg {mean('Progress/kimg'):<8.1f}",
            f"time {dnnlib.util.format_time(mean('Timing/total_sec')):<12s}",
            f"sec/tick {mean('Timing/sec_per_tick'):<7.1f}",
            f"sec/kimg {mean('Timing/sec_per_kimg'):<7.2f}",
            f"maintenance {mean('Timing/maintenance_sec'):<6.1f}",
            f"cpumem {mean('Resources/cpu_mem_gb'):<6.2f}",
            f"gpumem {mean('Resources/peak_gpu_mem_gb'):<6.2f}",
            f"augment {mean('Progress/augment'):.3f}",
            f"mask {mean('Layers/coverage'):.3f}",
            f"img/s {speed:<6.1f}",
            f"eta {dnnlib.util.format_time(max(self.total_nimg - cur_nimg, 0) / max(speed, 1e-9))}",
        ]), flush=True)

    def write(self, stats: dict[str, Any], step_kimg: float, images: dict[str, np.ndarray] | None = None) -> None:
        """Append one tick to stats.jsonl and tfevents.

        Args:
            stats: Name to {num, mean, std}. What was not measured (num 0) is left out: NaN is no JSON.
            step_kimg: The tfevents step, rounded down to whole kimg.
            images: Name to uint8 [H, W, 3].
        """
        now, stats = time.time(), {name: value for name, value in stats.items() if value["num"] > 0}
        with room_for(self.stats_path):
            self.jsonl.write(json.dumps(dict(stats, timestamp=now)) + "\n")
            self.jsonl.flush()
        with room_for(self.events_path):
            elapsed = now - self.start_time
            for name, value in stats.items():
                self.events.add_scalar(name, value["mean"], global_step=int(step_kimg), walltime=elapsed)
            for name, pixels in (images or {}).items():
                self.events.add_image(name, pixels, global_step=int(step_kimg), dataformats="HWC")
            self.events.flush()

    def close(self) -> None:
        """Take the bar away, close the files."""
        self._open.close()


def tick_stats(run: TrainingState, device: torch.device, start_time: float, tick_start_time: float,
               tick_end_time: float, tick_nimg: int, maintenance_sec: float) -> dict[str, dict[str, float]]:
    """The host's Progress, Timing and Resources statistics of a tick; ours: cpu_sec, resolution, fade.

    Times are seconds of ``time.time``, since the loop began; a tick begins after the maintenance of the one before.
    """
    total_sec, tick_sec = tick_end_time - start_time, tick_end_time - tick_start_time
    on_cuda = device.type == "cuda"
    values: dict[str, Any] = {
        "Progress/tick": run.cur_tick,
        "Progress/kimg": run.cur_nimg / 1000,
        "Progress/resolution": run.G.img_resolution,
        "Progress/fade": run.fade.alpha if run.fade is not None else 1,
        "Progress/augment": float(run.augment_pipe.p) if run.augment_pipe is not None else 0,
        "Timing/total_sec": total_sec,
        "Timing/sec_per_tick": tick_sec,
        "Timing/sec_per_kimg": tick_sec / tick_nimg * 1000,
        "Timing/maintenance_sec": maintenance_sec,
        "Timing/total_hours": total_sec / 3600,
        "Timing/total_days": total_sec / 86400,
        "Resources/cpu_sec": time.process_time(),
        "Resources/cpu_mem_gb": psutil.Process().memory_info().rss / 2**30,
        "Resources/peak_gpu_mem_gb": torch.cuda.max_memory_allocated(device) / 2**30 if on_cuda else 0,
    }
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    return {name: dict(num=1, mean=float(value), std=0.0) for name, value in values.items()}


@contextlib.contextmanager
def _threads_silent_of_full_disks() -> Iterator[None]:
    """Let the thread that writes tfevents end without a traceback: the next call of their writer raises its error."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if getattr(args.exc_value, "errno", None) not in NO_ROOM:
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
