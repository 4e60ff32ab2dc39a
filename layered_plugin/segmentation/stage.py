"""A training on top of a generator: its loop, exact resumption, what it writes as it goes, and the model at its end."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from layered_plugin.errors import CheckpointError, PictureError, UserError, raising
from layered_plugin.files import cut_torn_line, room_for
from layered_plugin.progress import progress
from layered_plugin.runs import STATS_FILE, forget_states, load_training_state
from layered_plugin.segmentation.model_file import network_hash, save_model
from layered_plugin.signals import StopRequest
from layered_plugin.tensor_files import save_state

SAMPLES = 12  # Columns of the pictures of a run.


@dataclass
class ModelRun:
    """Repeat a step, with progress, ``stats.jsonl``, saving and resumption; what stops it saves first."""

    run_dir: Path  # Existing folder.
    name: str  # Of this stage of the run, for its files: `training-state-NAME.pt`, and in stats.jsonl.
    label: str  # What is trained, shown in front of the progress; empty = no progress is shown.
    steps: int  # Length.
    batch: int  # Pictures a step, for the speed.
    saved: Mapping[str, Any]  # Networks, optimizers and schedules by name: their state is kept and restored.
    generators: Mapping[str, torch.Generator]  # By name; torch's own, of CPU and current GPU, are kept as well.
    save_every: int = 200  # Steps between training states.
    halted: Callable[[], bool] = lambda: False  # Asked after each step whether to save and stop, as if by SIGTERM.

    def __post_init__(self) -> None:
        self.state_file = self.run_dir / f"training-state-{self.name}.pt"
        self.saved = {name: part for name, part in self.saved.items() if part is not None}
        self.log_every = max(1, self.steps // 100)
        self.step, self.seconds = 0, 0.0
        if self.state_file.is_file():
            state = load_training_state(self.state_file)
            with raising(CheckpointError, f"{self.state_file}: damaged, or of another training",
                         RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError, width=200):
                self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        for name, part in self.saved.items():
            part.load_state_dict(state["saved"][name])
        for name, generator in self.generators.items():
            generator.set_state(state["generators"][name])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_initialized() and state.get("cuda_rng") is not None:  # None: so far without a GPU.
            torch.cuda.set_rng_state(state["cuda_rng"])

    def _save(self) -> None:
        state = dict(step=self.step, seconds=self.seconds, rng=torch.get_rng_state(),
                     cuda_rng=torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
                     saved={name: part.state_dict() for name, part in self.saved.items()},
                     generators={name: generator.get_state() for name, generator in self.generators.items()})
        save_state(self.state_file, state)

    def loop(self, take_step: Callable[[int], dict[str, float]]) -> str | None:
        """Take the remaining steps.

        Args:
            take_step: Called with the number of the step, from 0; returns its losses by name.

        Returns:
            None, or the name of the signal that stopped the run after saving.

        Raises:
            DiskFullError: There is no room for a file.
            UserError: A loss is infinite or not a number.
            PictureError: Too many pictures became unreadable; all is saved.
        """
        values: dict[str, list[float]] = {}  # Of the losses; a step may lack one.
        count, last = 0, time.monotonic()
        cut_torn_line(self.run_dir / STATS_FILE)
        with StopRequest() as stop:
            _append(self.run_dir / STATS_FILE, "")
            remaining = range(self.step, self.steps)
            for step in progress(remaining, self.steps, self.label, self.step) if self.label else remaining:
                try:
                    terms = take_step(step)
                except PictureError:  # Too many can't be read; the step was not taken.
                    if self.step > 0:
                        self._save()
                    raise
                not_finite = [name for name, value in terms.items() if not math.isfinite(value)]
                if not_finite:
                    raise UserError(f"{', '.join(not_finite)} not finite at step {step + 1} ({self.name}); "
                                    "start anew with another `seed`, or a lower `lr` where there is one")
                self.step, count = step + 1, count + 1
                for name, value in terms.items():
                    values.setdefault(name, []).append(value)
                if self.step % self.log_every == 0 or self.step == self.steps:
                    now = time.monotonic()
                    elapsed, last = now - last, now
                    self.seconds += elapsed
                    line = dict(stage=self.name, step=self.step, seconds=round(self.seconds, 2),
                                images_per_sec=round(count * self.batch / max(elapsed, 1e-9), 1),
                                **{name: sum(found) / len(found) for name, found in values.items()})
                    _append(self.run_dir / STATS_FILE, json.dumps(line) + "\n")
                    values, count = {}, 0
                stopped = stop.received or ("SIGTERM" if self.halted() else None)
                if self.step % self.save_every == 0 or self.step == self.steps or stopped:
                    self._save()
                if stopped:
                    return stopped
        return None


def _append(path: Path, text: str) -> None:
    with room_for(path), path.open("a") as log:
        log.write(text)


def finish_run(run_dir: Path, kind: str, networks: Mapping[str, torch.nn.Module], G: Any, options: dict[str, Any],
               record: Mapping[str, Any], **more: Any) -> None:
    """Write the model of a finished run by `save_model`, and remove its training states.

    Of model.json, the entries of ``record`` stand first, ``more`` last; G is the generator that it was trained for.
    """
    meta = dict(record, resolution=G.img_resolution, options=options, generator=network_hash(G), **more)
    save_model(run_dir, kind, networks, meta)
    forget_states(run_dir)
