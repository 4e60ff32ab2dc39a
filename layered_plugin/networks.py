"""LayeredGenerator: one z, two synthesis networks, three layers.

Section 3.1 and 3.4 of the paper. Persistent module: absolute imports only, since a pickle carries its source.
"""

import torch
from torch_utils import misc, persistence
from training import networks

from layered_plugin.compose import Layers, composite


@persistence.persistent_class
class LayeredMapping(torch.nn.Module):
    """Map z to the codes of both halves, [N, num_ws, halves * w_dim]: background first, foreground second.

    Each half has a mapping network of its own, or both get the codes of one (``shared``).
    """

    def __init__(self,
        z_dim,                      # Input latent (Z) dimensionality.
        c_dim,                      # Conditioning label (C) dimensionality, 0 = no label.
        w_dim,                      # Width of one half's codes.
        num_ws,                     # Number of codes per half.
        halves          = 2,        # 2 = background and foreground, 1 = one synthesis network.
        shared          = False,    # Feed both halves from one mapping network?
        **mapping_kwargs,           # Arguments for MappingNetwork.
    ):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim * halves
        self.num_ws = num_ws
        self.repeats = halves if shared else 1
        names = ["bg", "fg"] if halves == 2 and not shared else ["both"]
        self.names = names
        for name in names:
            net = networks.MappingNetwork(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=num_ws, **mapping_kwargs)
            self.add_module(name, net)

    @property
    def w_avg(self):
        """Running mean of w, [halves * w_dim]; upstream's style mixing and projector read it."""
        return torch.cat([getattr(self, name).w_avg for name in self.names]).repeat(self.repeats)

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        ws = [getattr(self, name)(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff,
                                  skip_w_avg_update=skip_w_avg_update) for name in self.names]
        return torch.cat(ws, dim=2).repeat(1, 1, self.repeats)  # [N, num_ws, halves * w_dim]


@persistence.persistent_class
class LayeredSynthesis(torch.nn.Module):
    """Draw the three layers from the codes, and composite them (Eq. 1).

    Two synthesis networks: background with img_channels outputs, foreground with one more for the mask logit. Or
    one with all outputs (ablation (g)).
    """

    def __init__(self,
        w_dim,                      # Width of one half's codes.
        img_resolution,             # Output resolution.
        img_channels,               # Number of color channels.
        single          = False,    # One synthesis network for all layers?
        **synthesis_kwargs,         # Arguments for SynthesisNetwork.
    ):
        super().__init__()
        self.w_dim = w_dim * (1 if single else 2)
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.single = single
        synthesis_kwargs = dict(synthesis_kwargs, w_dim=w_dim, img_resolution=img_resolution)
        if single:
            self.both = networks.SynthesisNetwork(img_channels=2 * img_channels + 1, **synthesis_kwargs)
        else:
            self.bg = networks.SynthesisNetwork(img_channels=img_channels, **synthesis_kwargs)
            self.fg = networks.SynthesisNetwork(img_channels=img_channels + 1, **synthesis_kwargs)
        any_net = self.both if single else self.bg
        self.num_ws = any_net.num_ws
        self.block_resolutions = any_net.block_resolutions

    def forward(self, ws, return_layers=False, **block_kwargs):
        """Return the unshifted composite [N, C, H, W] in about [-1, 1], or Layers(bg, fg, mask)."""
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        if self.single:
            out = self.both(ws, **block_kwargs)
        else:
            bg_ws, fg_ws = ws.chunk(2, dim=2)
            out = torch.cat([self.bg(bg_ws, **block_kwargs), self.fg(fg_ws, **block_kwargs)], dim=1)
        bg, fg, logit = out.split([self.img_channels, self.img_channels, 1], dim=1)
        layers = Layers(bg, fg, torch.sigmoid(logit))
        return layers if return_layers else composite(layers)


@persistence.persistent_class
class LayeredGenerator(networks.Generator):
    """Generator of layered scenes; a drop-in for the base's ``Generator`` (section 3.1).

    ``G(z, c)`` returns the unshifted composite as an ordinary picture; ``G.synthesis(ws, return_layers=True)``
    returns its layers. ``G.w_dim`` is the width of ``ws``, so twice the argument ``w_dim`` unless single.
    """

    def __init__(self,
        z_dim,                      # Input latent (Z) dimensionality.
        c_dim,                      # Conditioning label (C) dimensionality, 0 = no label.
        w_dim,                      # Intermediate latent (W) dimensionality of one half.
        img_resolution,             # Output resolution.
        img_channels,               # Number of color channels.
        generator           = "separate",   # "separate" = two synthesis networks, "single" = one (ablation (g)).
        mapping             = "separate",   # "separate" = a mapping network per half, "shared" = one.
        mapping_kwargs      = {},   # noqa: B006 - Arguments for MappingNetwork; never modified.
        synthesis_kwargs    = {},   # noqa: B006 - Arguments for SynthesisNetwork; never modified.
    ):
        # The base's constructor would build the two plain networks that are replaced here.
        torch.nn.Module.__init__(self)
        if generator not in ("separate", "single"):
            raise ValueError(f"Expected argument `generator` to be 'separate' or 'single', but got {generator!r}")
        if mapping not in ("separate", "shared"):
            raise ValueError(f"Expected argument `mapping` to be 'separate' or 'shared', but got {mapping!r}")
        single = generator == "single"
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim * (1 if single else 2)
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.synthesis = LayeredSynthesis(w_dim=w_dim, img_resolution=img_resolution, img_channels=img_channels,
                                          single=single, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws
        self.mapping = LayeredMapping(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws,
                                      halves=1 if single else 2, shared=mapping == "shared", **mapping_kwargs)
