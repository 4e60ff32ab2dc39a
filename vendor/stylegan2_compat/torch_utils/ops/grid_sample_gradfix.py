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
        if torch.are_deterministic_algorithms_enabled():
            return _spread_in_order(grad, input, grid)
        bilinear, zeros, align_corners, wanted = 0, 0, False, (True, False)
        return torch.ops.aten.grid_sampler_2d_backward(grad, input, grid, bilinear, zeros, align_corners, wanted)[0]

    @staticmethod
    def backward(ctx, grad):
        _, grid = ctx.saved_tensors
        return _Sample.apply(grad, grid), None, None


def _spread_in_order(grad: torch.Tensor, input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Transpose of sampling whose sums are always taken in one order; PyTorch's own adds as threads come on CUDA."""
    num, channels, height, width = input.shape
    # From the outer edges at -1 and 1 to pixels, whose centres are whole numbers.
    x, y = (grid + 1).mul(grid.new_tensor([width, height])).sub(1).div(2).unbind(3)  # [N, OH, OW]
    out = grad.new_zeros([num * height * width, channels])
    first = height * width * torch.arange(num, device=grid.device)[:, None, None]
    values = grad.movedim(1, 3)  # [N, OH, OW, C]
    for row in (y.floor(), y.floor() + 1):
        for column in (x.floor(), x.floor() + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
            place = first + (row * width + column).where(inside, 0).long()
            out.index_add_(0, place.flatten(), (values * weight[..., None]).flatten(0, 2).to(out.dtype))
    return out.unflatten(0, [num, height, width]).movedim(3, 1).contiguous()
