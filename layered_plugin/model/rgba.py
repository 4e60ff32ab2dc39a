"""An ordinary generator whose fourth channel is opacity. Embedded in pickles: imports nothing of the plugin's."""

import torch
from torch_utils import persistence
from training import networks


@persistence.persistent_class
class RgbaSynthesis(networks.SynthesisNetwork):
    """Synthesis network with four channels: colours, and the opacity of Eq. 1 as 2 m - 1, all in about [-1, 1]."""

    def forward(self, ws, **block_kwargs):
        """Codes [N, num_ws, w_dim] to pictures [N, 4, H, W]."""
        img = super().forward(ws, **block_kwargs)
        return torch.cat([img[:, :3], torch.tanh(img[:, 3:] / 2)], dim=1)  # The logit's sigmoid, stretched.
