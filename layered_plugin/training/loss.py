"""LayeredLoss: the host's loss on shifted composites, and the mask terms beside it.

Section 3.2 of the paper: equations 2 and 5.
"""

import torch
from torch_utils import misc, training_stats
from training.loss import StyleGAN2Loss

from layered_plugin.model.layers import Layers, composite, fold_objects, pad_channels, union_mask
from layered_plugin.model.mask_losses import (
    layer_range_loss,
    mask_binary_loss,
    mask_border_loss,
    mask_center_loss,
    mask_excess_loss,
    mask_overlap_loss,
    mask_size_loss,
    mask_variety_loss,
    middle_of,
)
from layered_plugin.model.perturb import jitter_contrast, random_shift, shift_foreground
from layered_plugin.training.phases import ramp


class LayeredLoss(StyleGAN2Loss):
    """The host's loss, with shifted composites in place of pictures, and the mask terms in Gmain.

    ``run_G`` returns the perturbed composite, so that the discriminator phases and path length see it too; the
    mask terms see the unshifted mask, as the paper's equations have it. Each object has a shift of its own, and each
    mask terms of its own, which are summed over the objects.

    With ``show_masks`` the discriminator compares pairs: a real picture and its mask, a composite and its shifted mask.
    So the masks' sizes, places and outlines come to be spread as those of the real pictures. Ours, not the paper's.
    """

    # Set by `set_progress`.
    shift: float
    mask_binary_weight: float
    mask_border_weight: float
    mask_variety: float

    def __init__(self, device, G_mapping, G_synthesis, D, augment_pipe=None,
        style_mixing_prob   = 0.9,      # Probability of style mixing, 0 = disable.
        r1_gamma            = 10,       # R1 weight, 0 = disable.
        pl_batch_shrink     = 2,        # Path-length batch = batch div this.
        pl_decay            = 0.01,     # EMA step of the mean path length.
        pl_weight           = 0,        # Path-length weight, 0 = disable; it keeps the layers from emerging.
        shift               = 0.125,    # Largest shift as a fraction of the resolution (delta), 0 = disable.
        mask_min            = 0.25,     # Smallest mask coverage that costs nothing (eta).
        mask_size_weight    = 2,        # Weight of Eq. 3 (gamma_1), 0 = disable.
        mask_binary_weight  = 2,        # Weight of Eq. 4 (gamma_2), 0 = disable.
        mask_border_weight  = 0,        # Weight of the mask along the border, 0 = disable.
        mask_center_weight  = 0,        # Weight of masks that leave out the middle, 0 = disable.
        mask_overlap_weight = 0,        # Weight of the overlap of several objects' masks, 0 = disable.
        bg_jitter           = 0.3,      # Half width of the background's contrast factor, 0 = disable.
        mask_size_over      = "picture",    # What Eq. 3 takes the mean mask over: "picture" or "batch".
        mask_floor          = 0,        # Smallest coverage of each mask as a share of mask_min, 0 = disable.
        mask_max            = 1,        # Largest coverage of each mask, 1 = disable; both are weighted as Eq. 3.
        mask_variety        = 0,        # Deviation of masks over the batch, share of the largest, 0 = disable.
        mask_variety_weight = 10,       # Weight of the term for it.
        range_weight        = 0,        # Weight of layers outside [-1, 1], 0 = disable.
        show_masks          = False,    # Does D see the mask beside the picture, as a fourth channel?
        D_channels          = None,     # Channels of D; those beyond a picture's are 0. None = as many.
    ):
        super().__init__(device=device, G_mapping=G_mapping, G_synthesis=G_synthesis, D=D, augment_pipe=augment_pipe,
                         style_mixing_prob=style_mixing_prob, r1_gamma=r1_gamma, pl_batch_shrink=pl_batch_shrink,
                         pl_decay=pl_decay, pl_weight=pl_weight)
        self.mask_min = mask_min
        self.mask_size_weight = mask_size_weight
        self.mask_center_weight = mask_center_weight
        self.mask_overlap_weight = mask_overlap_weight
        self.bg_jitter = bg_jitter
        self.mask_size_over = mask_size_over
        self.mask_floor = mask_floor
        self.mask_max = mask_max
        self.mask_variety_weight = mask_variety_weight
        self.range_weight = range_weight
        self.show_masks = show_masks
        self.D_channels = D_channels
        self._ramps = dict(r1_gamma=r1_gamma, shift=shift, mask_binary_weight=mask_binary_weight,
                           mask_border_weight=mask_border_weight, mask_variety=mask_variety)
        self.set_progress(0)

    def set_progress(self, progress: float) -> None:
        """Give each parameter that changes over the run its value at a share of it, in [0, 1]; see ``phases.ramp``."""
        for name, values in self._ramps.items():
            setattr(self, name, ramp(values, progress))

    def run_layers(self, z, c, sync) -> tuple[Layers, torch.Tensor]:
        """Draw the unperturbed layers, with the host's style mixing: one crossover for the whole batch."""
        with misc.ddp_sync(self.G_mapping, sync):
            ws = self.G_mapping(z, c)
            if self.style_mixing_prob > 0:
                num_ws = ws.shape[1]
                crossover = torch.randint(1, num_ws, [], device=ws.device)
                mixes = torch.rand([], device=ws.device) < self.style_mixing_prob
                crossover = torch.where(mixes, crossover, torch.full_like(crossover, num_ws))
                other = self.G_mapping(torch.randn_like(z), c, skip_w_avg_update=True)
                layer = torch.arange(num_ws, device=ws.device)[:, None]  # [num_ws, 1]
                ws = torch.where(layer < crossover, ws, other)
        with misc.ddp_sync(self.G_synthesis, sync):
            layers = self.G_synthesis(ws, return_layers=True)
        return layers, ws

    def perturb(self, layers: Layers) -> torch.Tensor:
        """Shift each object, jitter the background, composite (Eq. 2).

        Returns:
            What D sees, [N, 3, H, W]; with ``show_masks`` [N, 4, H, W], the shifted mask last, 1 = object, -1 = none.
        """
        max_px = round(self.shift * layers.mask.shape[3])
        if max_px > 0:
            num_shifts = len(layers.mask) * layers.mask.shape[1]
            layers = shift_foreground(layers, random_shift(num_shifts, max_px, device=layers.mask.device))
        img = composite(layers._replace(bg=jitter_contrast(layers.bg, self.bg_jitter)))
        return torch.cat([img, union_mask(layers) * 2 - 1], dim=1) if self.show_masks else img

    def adversarial_loss_G(self, gen_logits: torch.Tensor) -> torch.Tensor:
        """What the generator minimises besides the mask terms, [N, 1]: the host's non-saturating logistic loss."""
        return torch.nn.functional.softplus(-gen_logits)

    def run_G(self, z, c, sync):
        layers, ws = self.run_layers(z, c, sync)
        return self.perturb(layers), ws

    def run_D(self, img, c, sync):
        return super().run_D(pad_channels(img, self.D_channels or img.shape[1]), c, sync)

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        if phase in ("Gmain", "Gboth"):
            pl_follows = phase == "Gboth" and self.pl_weight != 0
            self._accumulate_Gmain(gen_z, gen_c, sync=sync and not pl_follows, gain=gain)
        if phase != "Gmain":
            super().accumulate_gradients(phase="Greg" if phase == "Gboth" else phase, real_img=real_img,
                                         real_c=real_c, gen_z=gen_z, gen_c=gen_c, sync=sync, gain=gain)

    def _accumulate_Gmain(self, gen_z, gen_c, sync, gain) -> None:
        """Gmain: make the shifted composites look real, and keep the masks large enough and binary (Eq. 5)."""
        layers, _ws = self.run_layers(gen_z, gen_c, sync=sync)
        gen_logits = self.run_D(self.perturb(layers), gen_c, sync=False)
        training_stats.report("Loss/scores/fake", gen_logits)
        training_stats.report("Loss/signs/fake", gen_logits.sign())
        loss_gan = self.adversarial_loss_G(gen_logits)
        training_stats.report("Loss/G/loss", loss_gan)
        num_objects = layers.mask.shape[1]
        loss_size = mask_size_loss(layers.mask, self.mask_min, self.mask_size_over)  # [N, K]
        loss_binary = mask_binary_loss(layers.mask)
        loss_border = mask_border_loss(layers.mask)
        training_stats.report("Loss/mask/size", loss_size)
        training_stats.report("Loss/mask/binary", loss_binary)
        training_stats.report("Loss/mask/border", loss_border)
        report_layers(layers)
        mask_terms = (self.mask_size_weight * loss_size + self.mask_binary_weight * loss_binary
                      + self.mask_border_weight * loss_border)  # [N, K]
        loss = loss_gan.mean() + mask_terms.mean() * num_objects + self._variety_terms(layers)
        if num_objects > 1:
            loss_overlap = mask_overlap_loss(layers.mask)
            training_stats.report("Loss/mask/overlap", loss_overlap)
            loss = loss + self.mask_overlap_weight * loss_overlap.mean()
        loss.mul(gain).backward()

    def _variety_terms(self, layers: Layers) -> torch.Tensor | float:
        """The terms for varied and sound layers that are on, weighted; each object counts, as in the mask terms."""
        terms: torch.Tensor | float = 0.0
        for name, bound, off, hinge in (("floor", self.mask_floor * self.mask_min, 0, mask_size_loss),
                                        ("excess", self.mask_max, 1, mask_excess_loss)):
            if bound != off:
                loss_bound = hinge(layers.mask, bound).sum(dim=1)  # [N]
                training_stats.report(f"Loss/mask/{name}", loss_bound)
                terms = terms + self.mask_size_weight * loss_bound.mean()
        if self.mask_center_weight > 0:
            loss_center = mask_center_loss(layers.mask)
            training_stats.report("Loss/mask/center", loss_center)
            terms = terms + self.mask_center_weight * loss_center
        if self.mask_variety > 0 and len(layers.mask) > 1:
            loss_variety = mask_variety_loss(layers.mask, self.mask_variety).sum()
            training_stats.report("Loss/mask/variety", loss_variety)
            terms = terms + self.mask_variety_weight * loss_variety
        if self.range_weight > 0:
            loss_range = layer_range_loss(layers)
            training_stats.report("Loss/layers/range", loss_range)
            terms = terms + self.range_weight * loss_range.mean()
        return terms


@torch.no_grad()
def report_layers(layers: Layers) -> None:
    """Report what tells a healthy mask from a collapsed one, as training statistics ``Layers/...``.

    ``coverage``: mean mask. ``border``: mean mask along the outermost pixels. ``center``: mean mask over the middle
    half of each side. ``binarity``: share of mask pixels outside [0.1, 0.9]. ``all_bg``, ``all_fg``: share of scenes
    with a mask that covers less than 1 % or more than 99 %. ``mask_variation``: standard deviation of a mask pixel
    over the batch, averaged over the pixels: 0 = the same mask for every z; left out for a single scene.
    ``difference``: mean absolute difference between foreground and background. Means are over all objects.
    """
    mask = layers.mask
    coverage = mask.mean(dim=[2, 3])  # [N, K]
    training_stats.report("Layers/coverage", coverage)
    training_stats.report("Layers/border", mask_border_loss(mask))
    training_stats.report("Layers/center", middle_of(mask))
    training_stats.report("Layers/binarity", ((mask < 0.1) | (mask > 0.9)).float().mean(dim=[2, 3]))
    training_stats.report("Layers/all_bg", (coverage < 0.01).any(dim=1).float())
    training_stats.report("Layers/all_fg", (coverage > 0.99).any(dim=1).float())
    if len(mask) > 1:
        training_stats.report("Layers/mask_variation", mask.std(dim=0, unbiased=False).mean())
    objects = fold_objects(layers)
    training_stats.report("Layers/difference", (objects.fg - objects.bg).abs().mean(dim=[1, 2, 3]))
