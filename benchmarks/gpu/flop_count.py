"""Operations of a training step, counted on tensors without data: beside the measurements, on one CPU thread."""

import contextlib
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses import FakeTensorMode
from torch_utils import custom_ops

from benchmarks.flops import count_step_flops
from benchmarks.gpu.step_config import training_config
from benchmarks.gpu.step_process import write_record


def count(config: dict[str, Any]) -> dict[str, Any]:
    """Operations for one picture, by phase and in the mean of a long training."""
    with contextlib.ExitStack() as stack:
        for context in (FakeTensorMode(), custom_ops.reference_ops(), mock.patch("torch_utils.training_stats.report")):
            stack.enter_context(context)
        found = count_step_flops(config)
    return dict(by_phase=found.by_phase, per_picture=found.per_picture)


def main(outdir: Path, resolutions: list[int], options: list[str]) -> None:
    """Record one count after the other."""
    torch.set_num_threads(1)
    for resolution in resolutions:
        config = training_config(resolution, "cpu", ["--aug=noaug", *options, "--precision=fp32"])
        write_record(outdir, step="flops", case=f"{resolution}", status="ok", **count(config))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(text) for text in sys.argv[2].split(",")], sys.argv[3:])
