"""What the machine's convolutions reach alone: the speed by which a training step's arithmetic is judged."""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.flops import count_step_flops
from benchmarks.support.training_rounds import Sizes, training_config
from benchmarks.support.worker import rounds
from layered_plugin.device import tune_cpu

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)


def conv_shapes(sizes: Sizes) -> list[tuple[int, int]]:
    """Channels and side of the 3x3 convolutions of the networks, from 8x8 up."""
    sides = [2**log2 for log2 in range(3, sizes.resolution.bit_length())]
    return [(min(sizes.cbase // side, sizes.cmax), side) for side in sides]


def conv_speeds(channels: int, side: int, batch: int, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of a 3x3 convolution in channels-last layout, in one go each: ``forward``, and its two gradients."""
    x = torch.randn(batch, channels, side, side).to(dtype, memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels, channels, 3, 3).to(dtype, memory_format=torch.channels_last).requires_grad_()
    flops = 2 * batch * channels**2 * 9 * side**2
    y = F.conv2d(x, weight, padding=1)
    grad = torch.randn_like(y)
    repeats = int(np.clip(1e10 / flops, 1, 50))
    forward = _seconds(lambda: F.conv2d(x.detach(), weight.detach(), padding=1), repeats)
    backward = _seconds(lambda: torch.autograd.grad(y, [x, weight], grad, retain_graph=True), repeats)
    return dict(forward=flops / forward, backward=2 * flops / backward)


def _seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def measure_in_rounds(conn: Connection, sizes: Sizes, threads: int, folder: str) -> None:
    """Target of a worker: first the FLOPs of a step per picture by phase, then speeds in each round.

    A round's result has a row for each number format and shape: dtype, channels, side, forward and backward, in FLOP/s.
    """
    torch.set_num_threads(threads)
    tune_cpu()
    counted = count_step_flops(training_config(sizes, "fp32", folder))
    conn.send(dict(counted.by_phase))
    for _seconds_asked in rounds(conn):
        rows: list[dict[str, Any]] = []
        for name, dtype in DTYPES.items():
            for channels, side in conv_shapes(sizes):
                rows.append(dict(dtype=name, channels=channels, side=side,
                                 **conv_speeds(channels, side, sizes.batch, dtype)))
        conn.send(rows)


def best_speeds(rounds_of_rows: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each shape's best speeds over the rounds."""
    best = []
    for rows in zip(*rounds_of_rows, strict=True):
        fastest = {key: max(row[key] for row in rows) for key in ("forward", "backward")}
        best.append(dict(rows[0], **fastest))
    return best


def peak_speed(rows: list[dict[str, Any]], dtype: str) -> float:
    """The fastest of all shapes and directions, in FLOP/s."""
    return max(max(row["forward"], row["backward"]) for row in rows if row["dtype"] == dtype)


def typical_speed(rows: list[dict[str, Any]], dtype: str) -> float:
    """All shapes once forward and backward, in FLOP/s: operations over time."""
    own = [row for row in rows if row["dtype"] == dtype]
    flops = [row["channels"]**2 * row["side"]**2 for row in own]
    seconds = [num * (1 / row["forward"] + 2 / row["backward"]) for num, row in zip(flops, own, strict=True)]
    return 3 * sum(flops) / sum(seconds)
