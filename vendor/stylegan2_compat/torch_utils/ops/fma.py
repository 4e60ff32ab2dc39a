"""Fused multiply-add with broadcasting.

Saves only the factors for the backward pass, never the product."""

import torch


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """a * b + c, elementwise.

    Args:
        a: Factor; any shape that broadcasts with the others.
        b: Factor.
        c: Summand.

    Returns:
        Tensor of the broadcast shape; differentiable to any order in all three.
    """
    return torch.addcmul(c, a, b)
