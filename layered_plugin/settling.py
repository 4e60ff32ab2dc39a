"""Settle the statistics of batch normalisation after a training, on the pictures that a network will see."""

from collections.abc import Iterable

import torch

from layered_plugin.dataset import RealPictures

SETTLE_BATCH, SETTLE_BATCHES = 100, 10


@torch.no_grad()
def settle_batch_norm(net: torch.nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of batch normalisation to the plain mean over these batches.

    After a short training the moving averages lag behind the weights. The network is left in evaluation mode.
    """
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # Cumulative mean.
    net.train()
    for img in batches:
        net(img)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


def settle_on_real(net: torch.nn.Module, real: RealPictures) -> int:
    """Settle a network on the next real pictures; returns how many these are."""
    settle_batch_norm(net, (real.batch(SETTLE_BATCH) for _ in range(SETTLE_BATCHES)))
    return SETTLE_BATCH * SETTLE_BATCHES
