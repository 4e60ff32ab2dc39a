"""A layered generator as ONNX: latent code and shift to picture and masks."""

import os
from typing import Any

import torch

from layered_plugin.model.layers import composite, visible_masks
from layered_plugin.model.perturb import shift_foreground
from layered_plugin.onnx_files import write_onnx


class _SceneNet(torch.nn.Module):
    """G with the shift and the composite behind it, in fp32, with constant noise."""

    def __init__(self, G: Any, truncation_psi: float):
        super().__init__()
        self.G = G
        self.truncation_psi = truncation_psi

    def forward(self, z: torch.Tensor, shift: torch.Tensor, label: torch.Tensor | None = None):
        ws = self.G.mapping(z, label, truncation_psi=self.truncation_psi)
        layers = self.G.synthesis(ws, noise_mode="const", return_layers=True, force_fp32=True, fused_modconv=False)
        layers = shift_foreground(layers, shift.flatten(0, 1))
        return composite(layers), visible_masks(layers)


def export_scenes(G: Any, dest: str | os.PathLike[str], truncation_psi: float = 1) -> float:
    """Write a layered generator of K objects, in evaluation mode on the CPU, as ONNX, N scenes at a time, N free.

    Inputs: `z` [N, z_dim], normal; `shift` [N, K, 2], int64, (dx, dy) of each object in pixels, zeros for none: what
    stood at p + shift goes to p (Eq. 2), so positive numbers move an object to the left and up; of a conditional
    network `label` [N, c_dim], one-hot. Outputs: `picture` [N, 3, R, R] in about [-1, 1], `mask` [N, K, R, R] in
    [0, 1], how much of each pixel shows each object. The truncation, 1 = none, is fixed in the file.

    Result and errors are those of ``write_onnx``.
    """
    num, draws = 2, torch.Generator().manual_seed(0)
    size_px, num_objects = G.img_resolution // 8, G.synthesis.num_objects
    inputs = dict(z=torch.randn([num, G.z_dim], generator=draws),
                  shift=torch.randint(-size_px, size_px + 1, [num, num_objects, 2], generator=draws))
    if G.c_dim > 0:
        inputs["label"] = torch.eye(G.c_dim)[torch.randint(G.c_dim, [num], generator=draws)]
    return write_onnx(_SceneNet(G, truncation_psi).eval(), inputs, ["picture", "mask"], dest)
