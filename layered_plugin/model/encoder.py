"""Encoder E: picture to the codes of a layered generator, and where to move its foreground.

Section 3.3 and "Segmenting real images" of section 4 of the paper.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from layered_plugin.device import fast_half
from layered_plugin.model.layers import Layers


class Codes(NamedTuple):
    """What an encoder says of N pictures; a shift above 0 is to the right and down, unlike that of ``perturb.py``."""

    ws: torch.Tensor  # Codes of both halves of the generator, [N, num_ws, w_dim].
    shift: torch.Tensor  # Displacement (dx, dy) of foreground and mask as a fraction of the side, [N, 2].


class Encoder(nn.Module):
    """ResNet-18 without average pooling and one fully connected layer: one code per style layer and half.

    At 64x64 these are the paper's 10 x 2 codes. Ours beyond the paper: codes are added to the generator's mean w,
    and the encoder may move the foreground, as the perturbation (Eq. 2) did when the generator was trained.
    """

    def __init__(self,
        resolution,                 # Side of the pictures, in pixels.
        num_ws,                     # Codes per half of the generator.
        w_dim,                      # Width of the codes of both halves together.
        max_shift       = 0.0,      # Largest displacement of the foreground, of the side; 0 = the paper's encoder.
        from_mean       = True,     # Add the codes to the generator's mean w? False = the paper's encoder.
    ):
        from torchvision.models import resnet18  # Takes seconds to import.

        super().__init__()
        self.config: dict[str, Any] = dict(resolution=resolution, num_ws=num_ws, w_dim=w_dim, max_shift=max_shift,
                                           from_mean=from_mean)
        net = resnet18(weights=None)
        self.body = nn.Sequential(*list(net.children())[:-2]).to(memory_format=torch.channels_last)
        side = -(-resolution // 32)  # Five halvings, rounded up.
        self.head = nn.Linear(512 * side * side, num_ws * w_dim + (2 if max_shift > 0 else 0))
        self.register_buffer("w_avg", torch.zeros([w_dim]))
        if from_mean:  # The first pictures drawn are the generator's mean scene.
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)

    def set_mean(self, w_avg: torch.Tensor) -> None:
        """Take over the generator's mean w, [w_dim]."""
        self.w_avg.copy_(w_avg)  # type: ignore[operator]

    def forward(self, img: torch.Tensor) -> Codes:
        """Encode pictures.

        Args:
            img: Pictures, [N, 3, resolution, resolution], in [-1, 1].

        Raises:
            ValueError: If the shape is another.
        """
        config = self.config
        if list(img.shape[1:]) != [3, config["resolution"], config["resolution"]]:
            raise ValueError(f"Expected argument `img` to be [N, 3, {config['resolution']}, {config['resolution']}], "
                             f"but got {list(img.shape)}")
        # Where the last stage strides over a single pixel, oneDNN leaves part of the bfloat16 gradient unwritten.
        with fast_half(img.device, enabled=config["resolution"] >= 32):
            features = self.body(img.contiguous(memory_format=torch.channels_last))
        out = self.head(features.float().flatten(1))
        ws = out[:, :config["num_ws"] * config["w_dim"]].unflatten(1, (config["num_ws"], config["w_dim"]))
        if config["from_mean"]:
            ws = ws + self.w_avg
        shift = config["max_shift"] * torch.tanh(out[:, -2:]) if config["max_shift"] > 0 else out.new_zeros(len(img), 2)
        return Codes(ws, shift)


def move_foreground(layers: Layers, shift: torch.Tensor) -> Layers:
    """Move foreground and mask by (dx, dy) of the side, [N, 2], differentiably (Eq. 2 with real-valued shifts).

    Positive moves to the right and down. By bilinear interpolation; what comes in from outside has mask 0.
    """
    theta = torch.zeros([len(shift), 2, 3], dtype=shift.dtype, device=shift.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, :, 2] = -2 * shift
    grid = F.affine_grid(theta, list(layers.mask.shape), align_corners=False)
    fg = F.grid_sample(layers.fg, grid, padding_mode="border", align_corners=False)
    mask = F.grid_sample(layers.mask, grid, padding_mode="zeros", align_corners=False)
    return Layers(layers.bg, fg, mask)


def decode(G: Any, codes: Codes, **synthesis_kwargs: Any) -> Layers:
    """Draw the layers of codes, moved by their shifts; further arguments are of the synthesis, such as force_fp32."""
    layers = G.synthesis(codes.ws, noise_mode="const", return_layers=True, **synthesis_kwargs)
    moves = codes.shift.requires_grad or codes.shift.any()  # A shift of 0 still has a gradient.
    return move_foreground(layers, codes.shift) if moves else layers
