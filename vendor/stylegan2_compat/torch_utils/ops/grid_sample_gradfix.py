"""Bilinear sampling at arbitrary positions, with derivatives of any order by the images.

PyTorch's own operation has a second derivative in some versions only; R1 regularization behind a geometric
augmentation needs it."""

import torch
import torch.nn.functional as F

enabled = False  # Set by the training loop; part of the host's interface, without effect here.


def grid_sample(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Sample images bilinearly; outside of the image they are zero.

    Args:
        input: Images, [N, C, H, W].
        grid: Positions, [N, OH, OW, 2], as (x, y); -1 and 1 are the outer edges of the border pixels.

    Returns:
        Samples, [N, C, OH, OW]. For a constant grid the derivatives by input are of any order; if grid
        requires gradients they are those of PyTorch's operation.
    """
    return _sample(input, grid) if grid.requires_grad else _Sample.apply(input, grid)


def _sample(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """PyTorch's operation."""
    return F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class _Sample(torch.autograd.Function):
    """Sampling, which is linear in the images."""

    @staticmethod
    def forward(ctx, input, grid):
        ctx.save_for_backward(input, grid)
        return _sample(input, grid)

    @staticmethod
    def backward(ctx, grad):
        input, grid = ctx.saved_tensors
        return _Spread.apply(grad, input.detach(), grid), None


class _Spread(torch.autograd.Function):
    """Transpose of sampling; of the images only the shape matters."""

    @staticmethod
    def forward(ctx, grad, input, grid):
        ctx.save_for_backward(input, grid)
        bilinear, zeros, align_corners, wanted = 0, 0, False, (True, False)
        return torch.ops.aten.grid_sampler_2d_backward(grad, input, grid, bilinear, zeros, align_corners, wanted)[0]

    @staticmethod
    def backward(ctx, grad):
        _, grid = ctx.saved_tensors
        return _Sample.apply(grad, grid), None, None
