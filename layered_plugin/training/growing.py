"""Progressive training: the schedule, and what each resolution changes of a run's configuration.

Section 4 of the paper: from 8x8 up, 1.2 million real pictures per resolution, the new blocks faded in (fading.py).
"""

import itertools
import math
import re
from typing import Any, NamedTuple

from layered_plugin.errors import ArgumentError


class Stage(NamedTuple):
    """One resolution of a growing run."""

    resolution: int
    kimg: float  # Thousands of real pictures shown at it.
    batch: int
    lr: float


# The paper's schedule. Above 128x128, where the paper ends, the last row holds.
SCHEDULE = (
    Stage(resolution=8,   kimg=1200, batch=256, lr=0.001),
    Stage(resolution=16,  kimg=1200, batch=128, lr=0.001),
    Stage(resolution=32,  kimg=1200, batch=64,  lr=0.001),
    Stage(resolution=64,  kimg=1200, batch=32,  lr=0.001),
    Stage(resolution=128, kimg=1200, batch=32,  lr=0.0015),
)

FADE_SHARE = 0.5  # Of a stage, from its begin: 600,000 pictures of fading, then 600,000 without, as StyleGAN has it.


def paper_stage(resolution: int) -> Stage:
    """The schedule's row for a resolution, a power of two of at least 8."""
    row = next((stage for stage in SCHEDULE if stage.resolution == resolution), SCHEDULE[-1])
    return row._replace(resolution=resolution)


def choose_stages(resolution: int, kimg: float | None = None, batch: int | None = None,
                  lr: float | None = None) -> list[Stage]:
    """The paper's schedule up to a resolution, with what the user sets otherwise.

    Args:
        resolution: Of the last stage, in pixels, a power of two of at least 8.
        kimg: Length of the whole run, which the stages share as in the schedule; None = the schedule's.
        batch: Batch size of every stage; None = the schedule's.
        lr: Learning rate of every stage; None = the schedule's.
    """
    stages = [paper_stage(2**log2) for log2 in range(3, int(math.log2(resolution)) + 1)]
    scale = 1 if kimg is None else kimg / sum(stage.kimg for stage in stages)
    return [Stage(stage.resolution, stage.kimg * scale, batch or stage.batch, lr or stage.lr) for stage in stages]


def parse_schedule(text: str, resolution: int, lr: float | None = None) -> list[Stage]:
    """Read a schedule: ``RES:KIMG:BATCH[:LR]`` per stage, with commas between.

    Args:
        text: What the user wrote.
        resolution: Of the last stage, in pixels.
        lr: Learning rate where a stage has none; None = the paper's at its resolution.

    Raises:
        ArgumentError: An entry is not of that form, or the resolutions do not double up to ``resolution``.
    """
    stages = []
    for entry in text.split(","):
        fields = re.fullmatch(r"(\d{1,6}):(\d{1,9}(?:\.\d{1,9})?):(\d{1,7})"
                              r"(?::(\d{1,3}(?:\.\d{1,12})?(?:e-?\d{1,2})?))?", entry.strip())
        if fields is None or min(float(field) for field in fields.groups() if field is not None) == 0:
            raise ArgumentError(f"`grow_schedule`: a stage is RES:KIMG:BATCH or RES:KIMG:BATCH:LR, all above 0, "
                                f"such as 8:600:256, got {entry!r}")
        px = int(fields[1])
        stages.append(Stage(px, float(fields[2]), int(fields[3]),
                            float(fields[4]) if fields[4] else lr or paper_stage(px).lr))
    sides = [stage.resolution for stage in stages]
    if sides[0] < 8 or sides[-1] != resolution or any(high != 2 * low for low, high in itertools.pairwise(sides)):
        raise ArgumentError(f"`grow_schedule`: resolutions must begin at 8 or more, double, and end at "
                            f"`resolution`={resolution}, got {', '.join(map(str, sides))}")
    return stages


def plan(stages: list[Stage], gpus: int, batch_gpu: int | None, ref_gpus: int, mbstd: int) -> list[dict[str, Any]]:
    """The stages as a run's configuration has them, with each one's batch per process and round.

    Args:
        stages: Of ``choose_stages`` or ``parse_schedule``.
        gpus: Number of processes.
        batch_gpu: Largest batch per process and round; None = a whole one on ref_gpus processes.
        ref_gpus: Number of processes that the base configuration was made for.
        mbstd: Group size of the minibatch standard deviation.

    Returns:
        Per stage: resolution, kimg, batch_size, batch_gpu, lr.

    Raises:
        ArgumentError: A stage is shorter than a batch, or its batch cannot be shared out.
    """
    largest = max(stage.batch for stage in stages)
    planned = []
    for stage in stages:
        where = f"`grow`: at {stage.resolution}x{stage.resolution}"
        if stage.kimg * 1000 < largest:
            raise ArgumentError(f"{where} there must be at least one of the largest batches, {largest} pictures, "
                                f"got {stage.kimg * 1000:g}; raise `kimg` or lower `batch`")
        if stage.batch % gpus != 0:
            raise ArgumentError(f"{where} the batch must be a multiple of `gpus`={gpus}, got {stage.batch}")
        share = stage.batch // gpus
        part = min(batch_gpu or max(stage.batch // max(ref_gpus, gpus), 1), share)
        if share % part != 0 or part % mbstd != 0:
            raise ArgumentError(f"{where} `batch_gpu` must divide the batch per process, {share}, and be a multiple of "
                                f"the minibatch-std group {mbstd}, got {part}")
        planned.append(dict(resolution=stage.resolution, kimg=stage.kimg, batch_size=stage.batch, batch_gpu=part,
                            lr=stage.lr))
    return planned


def stage_config(config: dict[str, Any], idx: int) -> dict[str, Any]:
    """A run's configuration for one stage, from that of the last and ``stages``, those of ``plan``.

    Kimg are counted over the whole run. Crop and shift follow the resolution. The last stage ends where the run does,
    so that ``--kimg`` can lengthen a run that is resumed; a shorter run ends in an earlier stage.
    """
    stage = config["stages"][idx]
    begin = math.fsum(earlier["kimg"] for earlier in config["stages"][:idx])
    is_last = idx == len(config["stages"]) - 1
    end = config["total_kimg"] if is_last else min(begin + stage["kimg"], config["total_kimg"])
    size_px = round(config["training_set_kwargs"]["size_px"] * stage["resolution"] / config["resolution"])
    return dict(
        config, resolution=stage["resolution"], batch_size=stage["batch_size"], batch_gpu=stage["batch_gpu"],
        total_kimg=end, ramp_kimg=config["total_kimg"],
        fade_kimg=None if idx == 0 else [begin, begin + FADE_SHARE * stage["kimg"]],
        training_set_kwargs=dict(config["training_set_kwargs"], size_px=size_px),
        G_opt_kwargs=dict(config["G_opt_kwargs"], lr=stage["lr"]),
        D_opt_kwargs=dict(config["D_opt_kwargs"], lr=stage["lr"]))
