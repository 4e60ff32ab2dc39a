"""WganGpLoss: the paper's adversarial loss, in place of the host's logistic one.

Equations 5 and 6 of the paper (section 3.2): Wasserstein critic, gradient penalty (Gulrajani et al. 2017), drift term
(Karras et al. 2018a).
"""

import torch
from torch_utils import misc, training_stats
from torch_utils.ops import conv2d_gradfix

from layered_plugin.model.layers import pad_channels
from layered_plugin.training.loss import LayeredLoss


def gradient_penalty(logits: torch.Tensor, img: torch.Tensor) -> torch.Tensor:
    """Penalize a critic whose slope is not 1 (the third term of Eq. 6, without its weight).

    Args:
        logits: D(img), [N, 1], attached to img.
        img: Pictures that the slope is taken at, [N, C, H, W], with requires_grad.

    Returns:
        (norm of the gradient of D by the whole picture - 1)^2, per picture, [N], differentiable by D's parameters.
    """
    with conv2d_gradfix.no_weight_gradients():
        (grads,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
    # vector_norm has the subgradient 0 at 0, where the square root of a sum of squares has none.
    return (torch.linalg.vector_norm(grads.flatten(1), dim=1) - 1).square()


def interpolate(real_img: torch.Tensor, gen_img: torch.Tensor) -> torch.Tensor:
    """Draw one point per pair on the line between two pictures, [N, C, H, W]: zeta x + (1 - zeta) x'.

    zeta, uniform in [0, 1], is drawn from torch's default generator on the pictures' device.
    """
    zeta = torch.rand([len(real_img), 1, 1, 1], device=real_img.device)
    return torch.lerp(gen_img, real_img, zeta)


class WganGpLoss(LayeredLoss):
    """LayeredLoss with Eq. 6 for the discriminator and -D(composite) for the generator (Eq. 5).

    Every step of D has the penalty, as in the paper, so D must have one phase, ``Dboth``. The penalty is taken between
    the pictures that D compares, so after the augmentation: D is to be 1-Lipschitz in what it is shown; taken before,
    the slope of the augmentation itself (a contrast factor, a cut-out) would be held to 1 as well.
    """

    def __init__(self, device, G_mapping, G_synthesis, D, augment_pipe=None,
        gp_weight           = 10,       # Weight of the gradient penalty (lambda).
        drift_weight        = 0.001,    # Weight of D(x)^2 on real pictures (epsilon), 0 = disable.
        **layered_kwargs,               # Arguments of LayeredLoss, but for r1_gamma.
    ):
        super().__init__(device, G_mapping, G_synthesis, D, augment_pipe, r1_gamma=0, **layered_kwargs)
        self.gp_weight = gp_weight
        self.drift_weight = drift_weight

    def adversarial_loss_G(self, gen_logits):
        return -gen_logits

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        if phase == "Dboth":
            self._accumulate_D(real_img, real_c, gen_z, gen_c, sync=sync, gain=gain)
        elif phase in ("Dmain", "Dreg"):
            raise ValueError(f"Expected D_reg_interval to be None, since WGAN-GP has its penalty in every step of D, "
                             f"but got the lazy phase {phase!r}")
        else:
            super().accumulate_gradients(phase=phase, real_img=real_img, real_c=real_c, gen_z=gen_z, gen_c=gen_c,
                                         sync=sync, gain=gain)

    def _augment(self, img: torch.Tensor) -> torch.Tensor:
        return img if self.augment_pipe is None else self.augment_pipe(img)

    def _judge(self, img: torch.Tensor, c: torch.Tensor, sync: bool) -> torch.Tensor:
        """D of pictures that are augmented already, [N, 1]."""
        with misc.ddp_sync(self.D, sync):
            return self.D(pad_channels(img, self.D_channels or img.shape[1]), c)

    def _accumulate_D(self, real_img, real_c, gen_z, gen_c, sync, gain) -> None:
        """Dboth (Eq. 6), one backward pass per term and picture kind, so that one graph is in memory at a time."""
        # Minimize D on composites.
        with torch.no_grad():
            gen_img = self._augment(self.run_G(gen_z, gen_c, sync=False)[0])
        gen_logits = self._judge(gen_img, gen_c, sync=False)
        gen_logits.mean().mul(gain).backward()

        # Maximize D on real pictures, and keep it from drifting off.
        real_img = self._augment(real_img).detach()
        real_logits = self._judge(real_img, real_c, sync=False)
        drift = real_logits.square()
        (self.drift_weight * drift - real_logits).mean().mul(gain).backward()

        # Keep the slope near 1 in between. The label is that of the real picture.
        mixed_img = interpolate(real_img, gen_img).requires_grad_(True)
        mixed_logits = self._judge(mixed_img, real_c, sync=sync)
        penalty = gradient_penalty(mixed_logits, mixed_img)
        # Zero times the logits gives every parameter a gradient, which DistributedDataParallel relies on.
        ((mixed_logits * 0).mean() + self.gp_weight * penalty.mean()).mul(gain).backward()
        self._report_D(gen_logits.detach(), real_logits.detach(), drift.detach(), penalty.detach())

    def _report_D(self, gen_logits, real_logits, drift, penalty) -> None:
        training_stats.report("Loss/scores/fake", gen_logits)
        training_stats.report("Loss/scores/real", real_logits)
        # A critic is known up to a constant, so ADA's sign is taken about the middle between real and generated.
        middle = (gen_logits.mean() + real_logits.mean()) / 2
        training_stats.report("Loss/signs/real", (real_logits - middle).sign())
        training_stats.report("Loss/D/loss", gen_logits - real_logits)
        training_stats.report("Loss/D/drift", drift)
        training_stats.report("Loss/D/gp", penalty)
        training_stats.report("Loss/D/reg", self.gp_weight * penalty + self.drift_weight * drift[:, 0])
