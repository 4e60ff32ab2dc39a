"""The legs of a run, a training loop each: one per resolution of a growing run, and one more once masks are found."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dnnlib
import torch

from layered_plugin import runs
from layered_plugin.data.masked_pictures import LEAST_MASKED
from layered_plugin.errors import CheckpointError
from layered_plugin.signals import StopRequest
from layered_plugin.training import setup
from layered_plugin.training.growing import stage_config
from layered_plugin.training.loop import training_loop
from layered_plugin.training.metrics import others_wait
from layered_plugin.training.state import check_saved, saved_resolution

# Finds masks of a run's pictures by its snapshots, into its folder: run folder, pictures, of how many of these at most,
# seed, kind of device, most processes that read. Returns None, or the name of the signal that stopped it.
FindMasks = Callable[[Path, str, int, int, str, int], str | None]

# What is kept in a run's configuration beside the parameters of ``training_loop``.
KEPT_BESIDE = ("stages", "found", "data_fingerprint", "masks_fingerprint", "network_sha256", "asked")


def legs_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters of ``training_loop`` for each leg of a run, in order; where that is too short the last have no length.

    ``stages`` of the configuration are those of ``growing.plan``. Its ``found`` says after which ``kimg`` masks are
    found, and which parameters of the loss (``loss_kwargs``) are others beside them: a leg that crosses that length is
    two, the second with the masks. The discriminator has a channel for them from the first on.
    """
    parts = [stage_config(config, idx) for idx in range(len(config["stages"]))] if "stages" in config else [config]
    parts = [{key: value for key, value in part.items() if key not in KEPT_BESIDE} for part in parts]
    if config.get("found") is None:
        return parts
    begins = [0.0, *(part["total_kimg"] for part in parts)]
    return [half for part, begin in zip(parts, begins, strict=False) for half in _halves(part, begin, config)]


def _halves(part: dict[str, Any], begin: float, config: dict[str, Any]) -> list[dict[str, Any]]:
    """A part of a run from kimg `begin` on: up to where masks are found and on from there, or all of it."""
    found, end = config["found"], part["total_kimg"]
    part = dict(part, ramp_kimg=config["total_kimg"])
    beside = dict(part, masks_path=str(_found_masks(config)),
                  loss_kwargs=dict(part["loss_kwargs"], **found["loss_kwargs"], show_masks=True))
    if begin < found["kimg"] < end:
        return [dict(part, total_kimg=found["kimg"]), beside]
    return [part if begin < found["kimg"] else beside]


def _found_masks(config: dict[str, Any]) -> Path:
    return Path(config["run_dir"] or "", runs.FOUND, "masks")


def leg_of(legs: list[dict[str, Any]], saved: dict[str, Any]) -> int:
    """Number of the leg that a training state is to go on in; the last of its resolution where all is reached already.

    CheckpointError if no leg has networks of the state's resolution.
    """
    check_saved(saved)
    side, sides = saved_resolution(saved), [leg["resolution"] for leg in legs]
    if side not in sides:
        raise CheckpointError(f"the training state is of {side}x{side} networks, but the schedule has "
                              f"{', '.join(map(str, dict.fromkeys(sides)))}")
    return next((idx for idx in range(sides.index(side), len(legs))
                 if saved["cur_nimg"] < legs[idx]["total_kimg"] * 1000), len(sides) - 1 - sides[::-1].index(side))


def train_legs(config: dict[str, Any], rank: int, device: torch.device, find_masks: FindMasks | None = None
               ) -> str | None:
    """Train leg after leg; each starts from the training state that the one before has saved.

    Parameters and result are those of ``training_loop``, with an existing run_dir in the config; `find_masks` is needed
    where it has ``found``.
    """
    legs = legs_of(config)
    pictures = dnnlib.util.construct_class_by_name(**config["training_set_kwargs"])
    pictures.preload(verbose=rank == 0)
    state = config["resume_state"]
    first = 0 if state is None or len(legs) == 1 else leg_of(legs, runs.load_training_state(state))
    for idx in range(first, len(legs)):
        leg = legs[idx]
        if idx > first and leg["total_kimg"] <= legs[idx - 1]["total_kimg"]:
            break
        if leg["masks_path"] != config["masks_path"]:
            assert find_masks is not None, "a run that finds masks needs who does it"
            signal_name = _find_for_all(find_masks, config, _num_masks(config, len(pictures.names)), rank, device)
            if signal_name is not None:
                return signal_name
        if len(legs) > 1 and rank == 0:
            _announce(idx, legs)
        training_set = pictures.reduced(leg["training_set_kwargs"]["size_px"])
        more_follow = leg["total_kimg"] < config["total_kimg"]
        with StopRequest() if more_follow else nullcontext() as stop:
            signal_name = training_loop(rank=rank, training_set=training_set,
                                        **dict(leg, device=device, resume_state=state))
        if signal_name is None and stop is not None:  # One may come while the loop ends.
            signal_name = _agree(stop.received, config["num_gpus"], device)
        if signal_name is not None:
            return signal_name
        if config["num_gpus"] > 1:
            torch.distributed.barrier()  # The state is rank 0's to write, and everybody's to read.
        state = str(runs.training_states(config["run_dir"])[-1])
    return None


def _num_masks(config: dict[str, Any], num_pictures: int) -> int:
    """Pictures whose masks are found: of a large set as many as are yet to be shown, and enough to be accepted."""
    to_show = round((config["total_kimg"] - config["found"]["kimg"]) * 1000)
    return min(max(to_show, math.ceil(LEAST_MASKED * num_pictures)), num_pictures)


def _find_for_all(find_masks: FindMasks, config: dict[str, Any], num: int, rank: int, device: torch.device
                  ) -> str | None:
    """Have the first process find masks while the others wait; the result is that of `find_masks`, for all the same."""
    stopped: str | None = None
    with StopRequest() as stop, others_wait(config["num_gpus"]):
        if rank == 0:
            stopped = find_masks(Path(config["run_dir"]), config["training_set_kwargs"]["path"], num,
                                 config["random_seed"], device.type, config["data_loader_kwargs"].get("num_workers", 0))
    return _agree(stopped or stop.received, config["num_gpus"], device)


def _agree(signal_name: str | None, num_gpus: int, device: torch.device) -> str | None:
    """The name of a signal that has stopped any of the processes."""
    is_stopped = setup.any_rank([signal_name is not None], num_gpus, device)[0]
    return (signal_name or "a signal in another process") if is_stopped else None


def _announce(idx: int, legs: list[dict[str, Any]]) -> None:
    leg, lr = legs[idx], legs[idx]["G_opt_kwargs"]["lr"]
    beside = ", with the masks that were found" if leg["masks_path"] == str(_found_masks(leg)) else ""
    print(f"Stage {idx + 1} of {len(legs)}: {leg['resolution']}x{leg['resolution']}, batch {leg['batch_size']}, "
          f"learning rate {' to '.join(f'{value:g}' for value in (lr if isinstance(lr, list) else [lr]))}, up to kimg "
          f"{leg['total_kimg']:g}{beside}")
