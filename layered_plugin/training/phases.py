"""Parts of a training step: the host's phases with lazy regularization, the weights' moving average, ADA's signal."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import dnnlib
import numpy as np
import torch
from torch_utils import misc, training_stats


class Phase(NamedTuple):
    """One optimizer step of an iteration; the loss knows it by name."""

    name: str  # Gmain, Greg, Gboth, Dmain, Dreg or Dboth.
    module: torch.nn.Module
    opt: torch.optim.Optimizer
    interval: int  # Runs every so many iterations.


def ramp(values: float | Sequence[float], progress: float) -> float:
    """Value of a setting at a share of the run.

    Args:
        values: A number, which holds throughout; or two: the first holds for the first half of the run, then it
            goes straight to the second, which it has at the end.
        progress: Share of the run, in [0, 1]; beyond 1 the last value holds.
    """
    if isinstance(values, int | float):
        return values
    begin, end = values
    return begin + (end - begin) * min(max(2 * progress - 1, 0), 1)


def set_learning_rate(phases: Sequence[Phase], lr: float | Sequence[float], progress: float) -> None:
    """Move the learning rate of a network's phases on to a share of the run, if it changes at all; see ``ramp``."""
    if isinstance(lr, int | float):
        return
    for group in phases[0].opt.param_groups:  # The phases have one optimizer, corrected for the longest interval.
        group["lr"] = ramp(lr, progress) * _lazy_ratio(phases[-1].interval if len(phases) > 1 else None)


def _lazy_ratio(reg_interval: int | None) -> float:
    return 1 if reg_interval is None else reg_interval / (reg_interval + 1)


def setup_phases(letter: str, module: torch.nn.Module, opt_kwargs: dict[str, Any],
                 reg_interval: int | None) -> list[Phase]:
    """Make the phases of G or D; main and regularization share one optimizer.

    Args:
        letter: "G" or "D".
        module: Network whose parameters are optimized.
        opt_kwargs: class_name and arguments of the optimizer; lr may change over the run, see ``ramp``.
        reg_interval: Regularize every so many iterations, with lr and betas corrected as in StyleGAN2's lazy
            regularization; None = in every iteration.
    """
    kwargs = dict(opt_kwargs, lr=ramp(opt_kwargs["lr"], 0))
    if reg_interval is not None:
        ratio = _lazy_ratio(reg_interval)
        kwargs["lr"] = kwargs["lr"] * ratio
        if "betas" in kwargs:
            kwargs["betas"] = [beta**ratio for beta in kwargs["betas"]]
    opt = dnnlib.util.construct_class_by_name(module.parameters(), **kwargs)
    if reg_interval is None:
        return [Phase(f"{letter}both", module, opt, 1)]
    return [Phase(f"{letter}main", module, opt, 1), Phase(f"{letter}reg", module, opt, reg_interval)]


def all_finite(grads: list[torch.Tensor]) -> bool:
    """Whether every element of every gradient is finite; one synchronization with the device."""
    if not grads:
        return True
    norms = torch.stack(torch._foreach_norm(grads))
    return bool(norms.isfinite().all())


def zero_nonfinite(grads: list[torch.Tensor]) -> None:
    """Replace in place: not-a-number by 0, infinities by +-1e5, as the host does."""
    for grad in grads:
        misc.nan_to_num(grad, nan=0, posinf=1e5, neginf=-1e5, out=grad)


@torch.no_grad()
def update_ema(G: torch.nn.Module, G_ema: torch.nn.Module, batch_size: int, cur_nimg: int, ema_kimg: float,
               ema_rampup: float | None) -> None:
    """Move G_ema towards G; buffers are copied.

    Args:
        G: Generator being trained.
        G_ema: Its moving average, of the same structure.
        batch_size: Pictures of this iteration.
        cur_nimg: Pictures shown before it.
        ema_kimg: Half-life in kimg.
        ema_rampup: Limit of the half-life as a fraction of cur_nimg, None = none.
    """
    half_life = ema_kimg * 1000
    if ema_rampup is not None:
        half_life = min(half_life, cur_nimg * ema_rampup)
    beta = 0.5 ** (batch_size / max(half_life, 1e-8))
    torch._foreach_lerp_(list(G_ema.parameters()), list(G.parameters()), 1 - beta)
    for average, current in zip(G_ema.buffers(), G.buffers(), strict=True):
        average.copy_(current)


class AdaSignal:
    """Mean sign of D on real pictures since p was last adjusted, kept so that a saved run continues exactly."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0  # A sum of signs, so a whole number.
        self._collector = training_stats.Collector(regex="Loss/signs/real", keep_previous=False)

    def gather(self) -> None:
        """Take in what has been reported; every process must call it together."""
        self._collector.update()
        num = self._collector.num("Loss/signs/real")
        if num > 0:
            self.count += num
            self.total += round(self._collector.mean("Loss/signs/real") * num)

    def take(self) -> float:
        """Return the mean, in [-1, 1], and begin anew."""
        self.gather()
        mean = self.total / max(self.count, 1)
        self.count = self.total = 0
        return mean

    def adjust(self, p: torch.Tensor, target: float, step: float) -> None:
        """Move the probability p, [], by a step towards where the mean sign is the target; at least 0."""
        p.add_(np.sign(self.take() - target) * step).clamp_(min=0)
