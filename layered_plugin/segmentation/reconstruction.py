"""Eq. 7: how well the generator draws a real picture again from its codes.

Section 3.3 of the paper. An encoder learns by this objective (``encoder_training.py``). Ours beyond the paper: once the
encoder has learnt, the codes of each picture can be refined by it, and its mask corrected. Generator and discriminator
stay frozen.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from layered_plugin.device import must_fp32
from layered_plugin.errors import ArgumentError, ModelError
from layered_plugin.model.encoder import Codes, decode
from layered_plugin.model.layers import Layers, composite, pad_channels
from layered_plugin.model.mask_losses import mask_border_loss

# Options of ``invert.py train`` that say what codes are good; refinement goes by the same.
LOSS_OPTIONS = ("feature_resolution", "feature_weight", "mean_w_weight", "mask_border_weight", "mask_area_weight")

PRIOR_WEIGHT = 0.3  # Of the distance to another model's mask in refinement, beside the L1 norm of Eq. 7.


class DiscriminatorFeatures:
    """Feature maps of a frozen discriminator at one resolution: D_feat of Eq. 7.

    Args:
        D: The base's discriminator.
        resolution: Side of the feature maps, in pixels: half the side of the pictures, or less by powers of two.
        block_kwargs: Arguments of D's blocks, such as force_fp32.

    Raises:
        ArgumentError: D has no feature maps of that side.
    """

    def __init__(self, D: Any, resolution: int, block_kwargs: dict[str, Any] | None = None):
        sides = [side // 2 for side in D.block_resolutions]
        if resolution not in sides:
            raise ArgumentError(f"`feature_resolution` must be one of {', '.join(map(str, sides))} for this "
                                f"discriminator, got {resolution}")
        self.blocks = [getattr(D, f"b{side}") for side in D.block_resolutions if side >= 2 * resolution]
        self.block_kwargs = block_kwargs or {}
        self.num_channels = D.img_channels

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Pictures [N, 3, H, W] in [-1, 1] to features [N, channels, resolution, resolution], float32."""
        x, img = None, pad_channels(img, self.num_channels)
        for block in self.blocks:
            x, img = block(x, img, **self.block_kwargs)
        return x.float()  # type: ignore[union-attr]


def autoencoder_loss(gen_img: torch.Tensor, real_img: torch.Tensor, features: DiscriminatorFeatures,
                     target: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The two terms of Eq. 7, per picture.

    Args:
        gen_img: Reconstructions, [N, C, H, W], in about [-1, 1].
        real_img: Pictures, the same shape.
        features: D_feat.
        target: Features of real_img, for whom they are at hand already.

    Returns:
        Mean absolute difference of the pixels, and mean squared difference of the features, [N] each. Both are means
        over the elements, where the equation has norms, so that their balance does not depend on the resolution.
    """
    l1 = (gen_img - real_img).abs().mean(dim=[1, 2, 3])
    if target is None:
        with torch.no_grad():
            target = features(real_img)
    return l1, (features(gen_img) - target).square().mean(dim=[1, 2, 3])


@dataclass
class Reconstruction:
    """The objective of Eq. 7 for one generator and its discriminator; terms of ours are off unless weighted.

    ArgumentError if D has no feature maps of the side asked for.
    """

    G: Any  # Layered generator, frozen.
    D: Any  # Its discriminator, frozen.
    _: KW_ONLY
    feature_resolution: int | None = None  # Side of D's feature maps; None = 16, or half of the pictures' if less.
    feature_weight: float = 1.0  # Weight of their term; 1 = Eq. 7.
    mean_w_weight: float = 0.0  # Weight of the squared distance of the codes to the mean w, 0 = Eq. 7.
    mask_border_weight: float = 0.0  # Weight of the mask along the border of the picture, 0 = Eq. 7.
    mask_area_weight: float = 0.0  # Weight of the mean mask, 0 = Eq. 7: what the background explains is left to it.
    force_fp32: bool = True  # Compute generator and discriminator in float32?

    def __post_init__(self) -> None:
        resolution = self.feature_resolution or min(16, self.G.img_resolution // 2)
        self.features = DiscriminatorFeatures(self.D, resolution, dict(force_fp32=self.force_fp32))
        # The grouped convolution that fuses modulation is slow to differentiate on a CPU.
        self.synthesis_kwargs = dict(force_fp32=self.force_fp32, fused_modconv=False)
        self.w_avg = self.G.mapping.w_avg.detach()

    @classmethod
    def from_options(cls, G: Any, D: Any, options: Mapping[str, Any]) -> "Reconstruction":
        """By the options of ``invert.py train``, of which others are ignored; in half precision where that is quick."""
        return cls(G, D, **{name: options[name] for name in LOSS_OPTIONS if name in options}, force_fp32=must_fp32(G))

    def __call__(self, codes: Codes, real_img: torch.Tensor, target: torch.Tensor | None = None,
                 prior: torch.Tensor | None = None) -> tuple[torch.Tensor, Layers, dict[str, float]]:
        """Draw the codes and compare them with the pictures.

        Args:
            codes: Of N pictures.
            real_img: The pictures, [N, 3, R, R], in [-1, 1].
            target: Their `targets`; None = compute them.
            prior: As for `refine_codes`.

        Returns:
            The loss, no dimensions; the layers drawn; the terms of Eq. 7 by name.
        """
        layers = decode(self.G, codes, **self.synthesis_kwargs)
        l1, feature = autoencoder_loss(composite(layers), real_img, self.features, target)
        loss = l1.mean() + self.feature_weight * feature.mean()
        if self.mean_w_weight > 0:
            loss = loss + self.mean_w_weight * (codes.ws - self.w_avg).square().mean()
        if self.mask_border_weight > 0:
            loss = loss + self.mask_border_weight * mask_border_loss(layers.mask).mean()
        if self.mask_area_weight > 0:
            loss = loss + self.mask_area_weight * layers.mask.mean()
        if prior is not None:
            loss = loss + PRIOR_WEIGHT * (layers.mask - prior).abs().mean()
        return loss, layers, dict(l1=l1.mean().item(), feature=feature.mean().item())

    @torch.no_grad()
    def targets(self, real_img: torch.Tensor, batch: int = 100) -> torch.Tensor:
        """D's features of real pictures that come again and again: the `target` of a call."""
        return torch.cat([self.features(part) for part in real_img.split(batch)])


def refine_codes(reconstruction: Reconstruction, codes: Codes, real_img: torch.Tensor, steps: int, max_shift: float,
                 lr: float = 0.02, prior: torch.Tensor | None = None) -> Codes:
    """Improve the codes of each picture by gradient descent on Eq. 7, the networks fixed.

    Args:
        reconstruction: The objective.
        codes: Where to start.
        real_img: The pictures, [N, 3, R, R], in [-1, 1].
        steps: Steps of Adam; pictures don't influence one another.
        max_shift: Largest displacement of the foreground, of the side, as the encoder's; 0 = it stays where it is.
        lr: Learning rate.
        prior: Masks that those of the codes should keep to, [N, 1, R, R], in [0, 1]; ours, not the paper's.

    Returns:
        Codes of the same shapes.

    Raises:
        ModelError: The loss is not finite.
    """
    ws, shift = codes.ws.detach().clone().requires_grad_(), codes.shift.detach().clone()
    shift.requires_grad_(max_shift > 0)
    groups: list[dict[str, Any]] = [dict(params=[ws], lr=lr)]
    if max_shift > 0:
        groups.append(dict(params=[shift], lr=lr / 10))
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999))
    target = reconstruction.targets(real_img)
    for _ in range(steps):
        loss = reconstruction(Codes(ws, shift), real_img, target, prior)[0] * len(ws)
        if not loss.isfinite():
            raise ModelError("the loss of `refine` is not finite: the model's weights are damaged, or it never learnt")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            shift.clamp_(-max_shift, max_shift)
    return Codes(ws.detach(), shift.detach())


def posterior_mask(layers: Layers, img: torch.Tensor, noise: float = 0.05) -> torch.Tensor:
    """Opacities by Bayes' rule: which of the two layers is each pixel of the picture likelier to show?

    The drawn mask is the probability before the pixel is seen (Eq. 1), and a layer explains a pixel as well as Laplace
    noise allows, which is what the L1 norm of Eq. 7 stands for. Ours, not the paper's.

    Args:
        layers: Scenes of one object, drawn for the pictures.
        img: The pictures, [N, 3, H, W], in [-1, 1].
        noise: Scale of the noise of a pixel's mean absolute difference, in the range of the pictures.

    Returns:
        [N, 1, H, W], in [0, 1].
    """
    bg, fg = ((img - layer).abs().mean(dim=1, keepdim=True) for layer in (layers.bg, layers.fg))
    return torch.sigmoid(layers.mask.logit(eps=1e-4) + (bg - fg) / noise)
