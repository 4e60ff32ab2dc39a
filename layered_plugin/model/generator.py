"""LayeredGenerator: one z; a synthesis network for the background and one per object; their layers.

Section 3.1 and 3.4 of the paper. Persistent module: absolute imports only, since a pickle carries its source.
"""

from typing import Any

import torch
from torch_utils import misc, persistence
from training import networks

from layered_plugin.model.layers import Layers, composite


@persistence.persistent_class
class LayeredMapping(torch.nn.Module):
    """Map z to the codes of all parts, [N, num_ws, parts * w_dim]: background first, then the objects in order.

    Each part has a mapping network of its own, or all get the codes of one (``shared``).
    """

    def __init__(self,
        z_dim,                      # Size of the latent code z.
        c_dim,                      # Size of the label, 0 = none.
        w_dim,                      # Width of one part's codes.
        num_ws,                     # Number of codes per part.
        parts           = ("bg", "fg"),  # Names of the synthesis networks.
        shared          = False,    # Feed all parts from one mapping network?
        **mapping_kwargs,           # Further arguments of MappingNetwork.
    ):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim * len(parts)
        self.num_ws = num_ws
        self.repeats = len(parts) if shared else 1
        self.names = ["both"] if shared else list(parts)
        for name in self.names:
            net = networks.MappingNetwork(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=num_ws, **mapping_kwargs)
            self.add_module(name, net)

    @property
    def w_avg(self):
        """Running mean of w, [parts * w_dim]; upstream's style mixing and projector read it."""
        return torch.cat([getattr(self, name).w_avg for name in self.names]).repeat(self.repeats)

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        ws = [getattr(self, name)(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff,
                                  skip_w_avg_update=skip_w_avg_update) for name in self.names]
        return torch.cat(ws, dim=2).repeat(1, 1, self.repeats)  # [N, num_ws, parts * w_dim]


@persistence.persistent_class
class LayeredSynthesis(torch.nn.Module):
    """Draw the layers from the codes, and composite them (Eq. 1).

    Synthesis networks ``bg`` with img_channels outputs, then ``fg fg2 fg3 ...``, one per object from back to front,
    with one output more for the mask logit. Or one named ``both`` with all outputs (ablation (g)).
    """

    def __init__(self,
        w_dim,                      # Width of one part's codes.
        img_resolution,             # Side of the pictures, in pixels.
        img_channels,               # Colour channels.
        single          = False,    # One synthesis network for all layers?
        num_objects     = 1,        # Number of objects K.
        **synthesis_kwargs,         # Further arguments of SynthesisNetwork.
    ):
        super().__init__()
        per_object = img_channels + 1
        if single:
            outputs = dict(both=img_channels + num_objects * per_object)
        else:
            names = ["fg", *(f"fg{number}" for number in range(2, num_objects + 1))]
            outputs = dict(bg=img_channels, **dict.fromkeys(names, per_object))
        self.w_dim = w_dim * len(outputs)
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.single = single
        self.num_objects = num_objects
        self.names = list(outputs)
        for name, channels in outputs.items():
            self.add_module(name, networks.SynthesisNetwork(
                img_channels=channels, w_dim=w_dim, img_resolution=img_resolution, **synthesis_kwargs))
        any_net = getattr(self, self.names[0])
        self.num_ws = any_net.num_ws
        self.block_resolutions = any_net.block_resolutions

    def forward(self, ws, return_layers=False, **block_kwargs):
        """Return the unshifted composite [N, C, H, W] in about [-1, 1], or Layers(bg, fg, mask)."""
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        outs = [getattr(self, name)(part, **block_kwargs)
                for name, part in zip(self.names, ws.chunk(len(self.names), dim=2), strict=True)]
        out = torch.cat(outs, dim=1)
        bg, *objects = out.split([self.img_channels] + [self.img_channels, 1] * self.num_objects, dim=1)
        fg, logit = objects if self.num_objects == 1 else (torch.cat(objects[i::2], dim=1) for i in (0, 1))
        layers = Layers(bg, fg, torch.sigmoid(logit))
        return layers if return_layers else composite(layers)


@persistence.persistent_class
class LayeredGenerator(networks.Generator):
    """Generator of layered scenes; a drop-in for the base's ``Generator`` (section 3.1).

    ``G(z, c)`` returns the unshifted composite as an ordinary picture; ``G.synthesis(ws, return_layers=True)``
    returns its layers. ``G.w_dim`` is the width of ``ws``: the argument ``w_dim`` times the number of parts, which is
    one for the background and one per object, or one altogether if single.
    """

    def __init__(self,
        z_dim,                      # Size of the latent code z.
        c_dim,                      # Size of the label, 0 = none.
        w_dim,                      # Size of w of one part.
        img_resolution,             # Side of the pictures, in pixels.
        img_channels,               # Colour channels.
        generator           = "separate",   # "separate" = a synthesis network per part, "single" = one (ablation (g)).
        mapping             = "separate",   # "separate" = a mapping network per part, "shared" = one.
        num_objects         = 1,    # Number of objects K, from back to front; the paper has one.
        mapping_kwargs      = {},   # noqa: B006 - Further arguments of MappingNetwork; never modified.
        synthesis_kwargs    = {},   # noqa: B006 - Further arguments of SynthesisNetwork; never modified.
    ):
        # The base's constructor would build the two plain networks that are replaced here.
        torch.nn.Module.__init__(self)
        if generator not in ("separate", "single"):
            raise ValueError(f"Expected argument `generator` to be 'separate' or 'single', but got {generator!r}")
        if mapping not in ("separate", "shared"):
            raise ValueError(f"Expected argument `mapping` to be 'separate' or 'shared', but got {mapping!r}")
        if num_objects < 1:
            raise ValueError(f"Expected argument `num_objects` to be at least 1, but got {num_objects}")
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.num_objects = num_objects
        synthesis = LayeredSynthesis(w_dim=w_dim, img_resolution=img_resolution, img_channels=img_channels,
                                     single=generator == "single", num_objects=num_objects, **synthesis_kwargs)
        self.w_dim = synthesis.w_dim
        self.num_ws = synthesis.num_ws
        self.synthesis: Any = synthesis
        self.mapping: Any = LayeredMapping(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws,
                                           parts=tuple(synthesis.names), shared=mapping == "shared", **mapping_kwargs)
