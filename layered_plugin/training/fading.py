"""Fade in the highest blocks of networks that have just grown, without a trace in the networks themselves.

Progressive growing (Karras et al. 2018a, section 2), as section 4 of the paper trains; alpha goes from 0 to 1.
"""

import copy
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch_utils.ops import upfirdn2d


class FadingSynthesis(torch.nn.Module):
    """A synthesis network whose highest block adds only alpha times its image to the upsampled image below.

    ``torgb`` is linear, so its weight and bias are scaled for the call. Works for every number of networks inside,
    as long as they are the base's, with skip architecture.
    """

    def __init__(self, net: torch.nn.Module, resolution: int):
        super().__init__()
        self.net = net
        self.alpha = 0.0
        pattern = re.compile(rf"(.*\.)?b{resolution}\.torgb\.(weight|bias)")
        self.torgb_names = [name for name, _ in net.named_parameters() if pattern.fullmatch(name)]

    def forward(self, ws: torch.Tensor, **kwargs: Any) -> Any:
        scaled = {name: self.net.get_parameter(name) * self.alpha for name in self.torgb_names}
        return torch.func.functional_call(self.net, scaled, (ws,), kwargs)


class FadingDiscriminator(torch.nn.Module):
    """A discriminator whose highest block is blended with the ``fromrgb`` that stood below it, on the halved picture.

    Args:
        net: The base's discriminator, architecture "resnet" or "orig".
        fromrgb: First layer of the discriminator of half the resolution; trained along.
    """

    def __init__(self, net: Any, fromrgb: torch.nn.Module):
        super().__init__()
        self.net = net
        self.fromrgb = fromrgb
        self.alpha = 0.0

    def forward(self, img: torch.Tensor, c: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:
        def blend(_block, _inputs, output):
            x, rest = output
            return torch.lerp(self.fromrgb(F.avg_pool2d(img, 2).to(x.dtype)), x, self.alpha), rest

        # The hook lives as long as the call: the network stays an ordinary one.
        hook = getattr(self.net, f"b{self.net.img_resolution}").register_forward_hook(blend)
        try:
            return self.net(img, c, **kwargs)
        finally:
            hook.remove()


class Fade:
    """What a stage trains while its highest blocks are faded in, and after: at alpha = 1 it is the plain networks.

    Args:
        G: LayeredGenerator of the stage.
        D: Discriminator of the stage.
        smaller_D: A discriminator of half the resolution, whose ``fromrgb`` is taken over.
        begin_kimg: Thousands of real pictures shown up to which alpha is 0.
        end_kimg: Thousands of real pictures shown from which on alpha is 1.
    """

    def __init__(self, G: Any, D: Any, smaller_D: Any, begin_kimg: float, end_kimg: float):
        self.begin_kimg = begin_kimg
        self.end_kimg = end_kimg
        self.synthesis = FadingSynthesis(G.synthesis, G.img_resolution)
        self.D = FadingDiscriminator(D, getattr(smaller_D, f"b{smaller_D.img_resolution}").fromrgb)
        self.alpha = 0.0

    def move_to(self, cur_nimg: int) -> None:
        """Set alpha for an iteration that begins with so many pictures shown."""
        done = (cur_nimg / 1000 - self.begin_kimg) / (self.end_kimg - self.begin_kimg)
        self.alpha = self.synthesis.alpha = self.D.alpha = min(max(done, 0.0), 1.0)

    def blend_real(self, img: torch.Tensor) -> torch.Tensor:
        """Fade in the fine detail of real pictures too, so that it does not give them away.

        Args:
            img: Real pictures, [N, C, H, W]. Halved and upsampled with the generator's filter, a picture is what the
                generator makes of one of half the resolution at alpha = 0, the border included.
        """
        if self.alpha == 1:
            return img
        block = getattr(self.D.net, f"b{self.D.net.img_resolution}")
        return torch.lerp(upfirdn2d.upsample2d(F.avg_pool2d(img, 2), block.resample_filter), img, self.alpha)

    @torch.no_grad()
    def baked(self, G: Any) -> Any:
        """An ordinary generator that draws what G (or its moving average) draws at this alpha; G itself at 1."""
        if self.alpha == 1:
            return G
        G = copy.deepcopy(G)
        for name in self.synthesis.torgb_names:
            G.synthesis.get_parameter(name).mul_(self.alpha)
        return G
