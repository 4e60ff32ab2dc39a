"""All that a run needs to go on exactly where it stopped, as one plain dict."""

import re
from dataclasses import dataclass, field
from typing import Any

import torch

from layered_plugin.errors import CheckpointError, one_line
from layered_plugin.training.fading import Fade
from layered_plugin.training.guards import CollapseWatch
from layered_plugin.training.phases import AdaSignal
from layered_plugin.training.processes import Process


@dataclass
class TrainingState:
    """What changes while a run trains."""

    G: Any
    D: torch.nn.Module
    G_ema: Any
    G_opt: torch.optim.Optimizer
    D_opt: torch.optim.Optimizer
    pl_mean: torch.Tensor  # The loss's own tensor, []; each process has one.
    augment_pipe: Any  # The base's AugmentPipe, or None.
    ada: AdaSignal | None
    fade: Fade | None = None  # Of a stage of a growing run, but for the first.
    cur_nimg: int = 0
    cur_tick: int = 0
    batch_idx: int = 0
    watch: CollapseWatch = field(default_factory=CollapseWatch)

    def pack(self, batch_size: int, num_gpus: int, device: torch.device) -> dict[str, Any]:
        """All of it, as tensors, numbers, lists and dicts (``weights_only=True``); processes must call it together."""
        if self.ada is not None:
            self.ada.gather()
        return dict(
            cur_nimg=self.cur_nimg, cur_tick=self.cur_tick, batch_idx=self.batch_idx, batch_size=batch_size,
            G=self.G.state_dict(), D=self.D.state_dict(), G_ema=self.G_ema.state_dict(),
            G_opt=self.G_opt.state_dict(), D_opt=self.D_opt.state_dict(),
            pl_mean=torch.stack(_gather(self.pl_mean.cpu(), num_gpus)),
            augment_p=None if self.augment_pipe is None else float(self.augment_pipe.p),
            ada=None if self.ada is None else [self.ada.count, self.ada.total], watch=self.watch.pack(),
            fromrgb=None if self.fade is None else self.fade.D.fromrgb.state_dict(),
            rng=_gather(_rng_states(device), num_gpus))

    def unpack(self, saved: dict[str, Any], batch_size: int, rank: int = 0) -> bool:
        """Restore all but the random states (``restore_rng``, as the last thing before the loop).

        Returns:
            Whether the networks have grown: in a stage of a growing run, a state of half the resolution gives its
            blocks to them by name. The blocks above stay as they were made, and the optimizers begin anew: their
            moments are of another loss.

        Raises:
            CheckpointError: The state is of a run with other networks or batch size, or damaged.
        """
        check_saved(saved)
        grows = self.fade is not None and 2 * saved_resolution(saved) == self.G.img_resolution
        if not grows and batch_size != saved["batch_size"]:
            raise CheckpointError(f"`batch`={batch_size} does not fit the training state, which was made with "
                                  f"{saved['batch_size']}")
        try:
            if grows:
                self._grow(saved)
            else:
                self._load(saved)
            means = saved["pl_mean"].reshape(-1)
            self.pl_mean.copy_(means[rank % len(means)])  # Another number of processes share those that there are.
            if self.augment_pipe is not None:
                self.augment_pipe.p.fill_(saved["augment_p"])
            if self.ada is not None:
                self.ada.count, self.ada.total = saved["ada"]
            if "watch" in saved:  # Older versions have none.
                self.watch.unpack(saved["watch"])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as err:
            raise CheckpointError("the training state is damaged, or does not fit the networks of this configuration: "
                                  f"{one_line(err, 200)}") from err
        self.cur_nimg, self.cur_tick, self.batch_idx = saved["cur_nimg"], saved["cur_tick"], saved["batch_idx"]
        return grows

    def _load(self, saved: dict[str, Any]) -> None:
        for name in ("G", "D", "G_ema", "G_opt", "D_opt"):
            getattr(self, name).load_state_dict(saved[name])
        if self.fade is not None:
            self.fade.D.fromrgb.load_state_dict(saved["fromrgb"])

    def _grow(self, saved: dict[str, Any]) -> None:
        for name in ("G", "D", "G_ema"):
            tensors = getattr(self, name).state_dict()
            getattr(self, name).load_state_dict(
                {**tensors, **{key: value for key, value in saved[name].items() if key in tensors}})
        prefix = f"b{saved_resolution(saved)}.fromrgb."
        self.fade.D.fromrgb.load_state_dict(  # type: ignore[union-attr]
            {key.removeprefix(prefix): value for key, value in saved["D"].items() if key.startswith(prefix)})


def check_saved(saved: dict[str, Any]) -> None:
    """See that a training state has what one has; CheckpointError names what it lacks."""
    for name, kind in dict(cur_nimg=int, cur_tick=int, batch_idx=int, batch_size=int, G=dict, D=dict, G_ema=dict,
                           G_opt=dict, D_opt=dict, pl_mean=torch.Tensor, rng=list).items():
        if not isinstance(saved.get(name), kind):
            raise CheckpointError(f"the training state is damaged: it has no {name}")
    if not saved["pl_mean"].numel():
        raise CheckpointError("the training state is damaged: it has no pl_mean")
    if not saved["rng"] or not all(isinstance(states, dict) and isinstance(states.get("cpu"), torch.Tensor)
                                   for states in saved["rng"]):
        raise CheckpointError("the training state is damaged: it has no rng")


def saved_resolution(saved: dict[str, Any]) -> int:
    """Resolution of the networks in a training state: that of D's highest block; 0 if it has none."""
    return max((int(match[1]) for name in saved["D"] if (match := re.match(r"b(\d+)\.", name))), default=0)


def restore_rng(saved: dict[str, Any], process: Process) -> None:
    """Set PyTorch's generators to where this process's stood; for another number of processes, to new places."""
    rank, num_gpus, device, seed = process
    if len(saved["rng"]) != num_gpus:
        torch.manual_seed(seed * num_gpus + rank + (saved["cur_nimg"] << 20))
        return
    states = saved["rng"][rank]
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and states["device"] is not None:
        torch.cuda.set_rng_state(states["device"], device)
    elif device.type == "mps" and states["device"] is not None:
        torch.mps.set_rng_state(states["device"])


def _rng_states(device: torch.device) -> dict[str, torch.Tensor | None]:
    state = dict(cpu=torch.get_rng_state(), device=None)
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["device"] = torch.mps.get_rng_state()
    return state


def _gather(value: Any, num_gpus: int) -> list[Any]:
    """What every process has, in the order of their ranks."""
    if num_gpus == 1:
        return [value]
    values: list[Any] = [None] * num_gpus
    torch.distributed.all_gather_object(values, value)
    return values
