"""Fit a U-Net to pairs of picture and mask; settle batch statistics on real pictures."""

from collections.abc import Iterable
from itertools import permutations

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from layered_plugin.data.dataset import RealPictures
from layered_plugin.device import fast_half

SETTLE_BATCH, SETTLE_BATCHES = 100, 10


class Fitting:
    """Fit a U-Net to masks by binary cross-entropy: AdamW, one cycle of the learning rate.

    Args:
        unet: Network, on its device.
        steps: Length of the cycle; `step` may be called so many times.
        lr: Largest learning rate.
    """

    def __init__(self, unet: nn.Module, steps: int, lr: float = 3e-3):
        self.unet = unet
        self.optimizer = torch.optim.AdamW(unet.parameters(), lr=lr, weight_decay=1e-4, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR
        # OneCycleLR divides by zero where the rise ends with the first step.
        rise = max(0.1, 1.5 / max(steps, 2))
        self.schedule = cycle(self.optimizer, lr, total_steps=steps, pct_start=rise) if steps > 1 else None
        unet.train()

    def step(self, img: torch.Tensor, target: torch.Tensor) -> float:
        """Take one step.

        Args:
            img: Pictures, [N, 3, H, W], in [-1, 1].
            target: Masks, [N, K, H, W], in [0, 1]; those of several objects in any order.

        Returns:
            The loss before the step; of one that is not finite no step is taken.
        """
        device = next(self.unet.parameters()).device
        img = img.to(device).contiguous(memory_format=torch.channels_last)
        with fast_half(device):
            logits = self.unet(img)
        target = best_order(logits.detach().float(), target.to(device))
        loss = F.binary_cross_entropy_with_logits(logits.float(), target)
        if not loss.isfinite():  # The run stops on it; until then nothing is spoilt.
            return loss.item()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return loss.item()


def best_order(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Put the masks of each picture's objects into the order that the prediction fits best.

    Which object is the first means nothing; without this, a network of several masks would learn their mean.

    Args:
        logits: Prediction, [N, K, H, W].
        target: Masks, [N, K, H, W], in [0, 1].

    Returns:
        The masks in the order of least binary cross-entropy, [N, K, H, W]; K! orders are tried.
    """
    num, num_objects = target.shape[:2]
    if num_objects == 1:
        return target
    # Of the loss, softplus(logits) - logits * target, only the product depends on the order.
    fit = torch.einsum("nihw,njhw->nij", logits, target)
    orders = torch.tensor(list(permutations(range(num_objects))), device=target.device)  # [K!, K]
    best = fit[:, torch.arange(num_objects, device=target.device), orders].sum(dim=2).argmax(dim=1)  # [N]
    return target[torch.arange(num, device=target.device)[:, None], orders[best]]


def settle_batch_norm(net: torch.nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of batch normalisation to the plain mean over these batches.

    After a short training the moving averages lag behind the weights. The network is left in evaluation mode.
    """
    update_bn(batches, net)
    net.eval()


def settle_on_real(net: torch.nn.Module, real: RealPictures) -> int:
    """Settle a network on the next real pictures; returns how many these are."""
    settle_batch_norm(net, (real.batch(SETTLE_BATCH) for _ in range(SETTLE_BATCHES)))
    return SETTLE_BATCH * SETTLE_BATCHES
