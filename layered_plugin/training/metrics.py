"""Metrics of a training's snapshots, a file metric-NAME.jsonl each: the official base's, or torch-fidelity's FID, KID.

With the bundled base their names are upstream's, fid50k_full and kid50k_full, with any number of thousands in place of
50: so many scenes against all pictures of the data set. Inception's weights are a file of the user's.
"""

import contextlib
import datetime
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dnnlib
import torch
import torch.distributed

from layered_plugin.base import BASE
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.labels import Labels
from layered_plugin.errors import ArgumentError, FidelityError, PictureError, raising
from layered_plugin.files import append_line
from layered_plugin.model.fidelity import Fidelity
from layered_plugin.training.processes import Process

NAME = re.compile(r"(fid|kid)([1-9]\d{0,3})k_full")

LONGEST = datetime.timedelta(days=7)  # That the other processes wait for the first.


def choose_metrics(text: str, fid_weights: str | None) -> list[str]:
    """Resolve the names of metrics: none, or names with commas.

    Args:
        text: What the user wrote.
        fid_weights: File of Inception's weights, for the bundled base.

    Raises:
        ArgumentError: The base has no such metric.
        FidelityError: The bundled base's metrics lack torch-fidelity or the weights.
    """
    names = [] if text == "none" else text.split(",")
    if names and BASE.name == "bundled":
        for name in names:
            _split(name)
        Fidelity(fid_weights)
    return names


@dataclass
class SnapshotMetrics:
    """Computes the metrics of each snapshot, and appends them to the files of its run."""

    names: list[str]  # Of the metrics, see ``choose_metrics``; none of them costs nothing.
    fid_weights: str | None  # File of Inception's weights, for the bundled base.
    training_set: Any  # Labels of the scenes.
    training_set_kwargs: dict[str, Any]  # Real pictures, cropped as trained on.
    process: Process  # This one, of those that measure together; scenes are by its seed.

    def __call__(self, G_ema: Any, snapshot_pkl: Path) -> dict[str, dict[str, float]]:
        """Statistics ``Metrics/NAME`` of a snapshot in the first process; empty in the others, which call it together.

        PyTorch's default generators are left as they are. On the bundled base the first process computes, and the
        others wait.

        Raises:
            FidelityError: The pictures can't be compared; the text says why.
        """
        if not self.names:
            return {}
        with torch.random.fork_rng(devices=[self.process.device] if self.process.device.type == "cuda" else []):
            values = (self._official if BASE.name == "official" else self._bundled)(G_ema, snapshot_pkl)
        return {f"Metrics/{name}": dict(num=1, mean=float(value), std=0.0) for name, value in values.items()}

    def _official(self, G_ema: Any, snapshot_pkl: Path) -> dict[str, float]:
        from metrics import metric_main

        rank, num_gpus, device, _seed = self.process
        values: dict[str, float] = {}
        kwargs = dict(self.training_set_kwargs, resolution=G_ema.img_resolution)
        for name in self.names:
            result = metric_main.calc_metric(metric=name, G=G_ema, dataset_kwargs=kwargs, num_gpus=num_gpus,
                                             rank=rank, device=device)
            if rank == 0:
                metric_main.report_metric(result, run_dir=str(snapshot_pkl.parent), snapshot_pkl=str(snapshot_pkl))
                values.update(result["results"])
        return values

    def _bundled(self, G_ema: Any, snapshot_pkl: Path) -> dict[str, float]:
        rank, num_gpus, device, seed = self.process
        values: dict[str, float] = {}
        with others_wait(num_gpus):
            for num in sorted({_split(name)[1] for name in self.names}) if rank == 0 else []:
                start_time = time.time()
                real = PictureDataset(self.training_set_kwargs["path"], self.training_set_kwargs["size_px"],
                                      G_ema.img_resolution)
                labels = Labels(G_ema.c_dim, self.training_set if G_ema.c_dim > 0 else None)
                fidelity = Fidelity(self.fid_weights, device=device.type)
                # Not the training's own, after which all processes save together.
                with raising(FidelityError, "`metrics`", PictureError):
                    scores = fidelity(G_ema, real, num, seed, labels=labels)
                for name in self.names:
                    if _split(name)[1] == num:
                        values[name] = scores[_split(name)[0]]
                        self._report(name, values[name], time.time() - start_time, snapshot_pkl)
        return values

    def _report(self, name: str, value: float, seconds: float, snapshot_pkl: Path) -> None:
        """Append a metric to its file, and print it, as upstream does."""
        line = json.dumps(dict(
            results={name: value}, metric=name, total_time=seconds, total_time_str=dnnlib.util.format_time(seconds),
            num_gpus=self.process.num_gpus, snapshot_pkl=snapshot_pkl.name, timestamp=time.time()))
        print(line)
        append_line(snapshot_pkl.parent / f"metric-{name}.jsonl", line)


def _split(name: str) -> tuple[str, int]:
    """Kind of a metric of the bundled base, and number of scenes; ArgumentError if it is none."""
    match = NAME.fullmatch(name)
    if match is None:
        raise ArgumentError(f"`metrics`: {name!r} needs the official base (see vendor/README.md); the bundled one has "
                            "fid50k_full and kid50k_full, or another number of thousands")
    return match[1], int(match[2]) * 1000


@contextlib.contextmanager
def others_wait(num_gpus: int) -> Iterator[None]:
    """Let the processes go on together, after however long; those with nothing to do wait in a group of their own."""
    if num_gpus == 1:
        yield
        return
    group: Any = torch.distributed.new_group(backend="gloo", timeout=LONGEST)
    yield
    torch.distributed.barrier(group=group)
    torch.distributed.destroy_process_group(group)
