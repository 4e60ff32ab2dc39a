"""Training losses: non-saturating logistic loss with R1 and path length regularisation, one method call per phase.
Sources: Karras et al. 2020 (StyleGAN2, section 3.2 and appendix B); Mescheder et al. 2018 for R1."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch_utils import misc, training_stats
from torch_utils.ops import conv2d_gradfix
from training.networks import MinibatchStdLayer

PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")


class Loss:
    """Interface between training loop and loss."""

    def accumulate_gradients(
        self, phase: str, real_img: Tensor, real_c: Tensor, gen_z: Tensor, gen_c: Tensor, sync: bool, gain: float
    ) -> None:
        """Run backward passes for one phase; see `StyleGAN2Loss.accumulate_gradients`."""
        raise NotImplementedError


def _report_scores(kind: str, logits: Tensor) -> None:
    training_stats.report(f"Loss/scores/{kind}", logits)
    training_stats.report(f"Loss/signs/{kind}", logits.sign())


class StyleGAN2Loss(Loss):
    """Losses of StyleGAN2, with optional augmentation of all images that the discriminator sees."""

    def __init__(
        self,
        device: torch.device,
        G_mapping: torch.nn.Module,
        G_synthesis: torch.nn.Module,
        D: torch.nn.Module,  # Only MinibatchStdLayer may let the samples of a batch see each other.
        augment_pipe: torch.nn.Module | None = None,  # Applied to real and generated images, None = disable.
        style_mixing_prob: float = 0.9,  # Probability of a second latent from a random layer on, 0 = disable.
        r1_gamma: float = 10,  # Weight of R1, 0 = disable.
        pl_batch_shrink: int = 2,  # Path length uses this fraction of the batch.
        pl_decay: float = 0.01,  # Step of the running mean of the path length.
        pl_weight: float = 2,  # Weight of the path length penalty, 0 = disable.
    ) -> None:
        super().__init__()
        self.G_mapping, self.G_synthesis, self.D, self.augment_pipe = G_mapping, G_synthesis, D, augment_pipe
        self.style_mixing_prob, self.r1_gamma = style_mixing_prob, r1_gamma
        self.pl_weight, self.pl_decay, self.pl_batch_shrink = pl_weight, pl_decay, pl_batch_shrink
        self.pl_mean = torch.zeros([], device=device)
        self.device = device

    def run_G(self, z: Tensor, c: Tensor, sync: bool) -> tuple[Tensor, Tensor]:
        """Generate images with style mixing.

        Args:
            z: Latent codes, [N, z_dim].
            c: Labels, [N, c_dim].
            sync: Average gradients between processes in the backward pass.

        Returns:
            Images [N, C, H, W] and the latents they were made from, [N, num_ws, w_dim].
        """
        with misc.ddp_sync(self.G_mapping, sync):
            ws = self.G_mapping(z, c)
            if self.style_mixing_prob > 0:
                ws = self._mix_styles(ws, z, c)
        with misc.ddp_sync(self.G_synthesis, sync):
            img = self.G_synthesis(ws)
        return img, ws

    def _mix_styles(self, ws: Tensor, z: Tensor, c: Tensor) -> Tensor:
        """Replace the latents from a random layer on, the same one for the whole batch."""
        num_ws = ws.shape[1]
        cutoff = torch.randint(1, num_ws, [], device=ws.device)
        mixes = torch.rand([], device=ws.device) < self.style_mixing_prob
        keep = int(torch.where(mixes, cutoff, num_ws))
        # The second pass runs even if nothing is replaced: the random stream must not depend on the outcome.
        other = self.G_mapping(torch.randn_like(z), c, skip_w_avg_update=True)
        return torch.cat([ws[:, :keep], other[:, keep:]], dim=1)

    def run_D(self, img: Tensor, c: Tensor, sync: bool) -> Tensor:
        """Judge images after augmentation.

        Args:
            img: Images, [N, C, H, W], nominally in [-1, 1].
            c: Labels, [N, c_dim].
            sync: Average gradients between processes in the backward pass.

        Returns:
            Logits, [N, 1].
        """
        if self.augment_pipe is not None:
            img = self.augment_pipe(img)
        with misc.ddp_sync(self.D, sync):
            return self.D(img, c)

    def accumulate_gradients(
        self, phase: str, real_img: Tensor, real_c: Tensor, gen_z: Tensor, gen_c: Tensor, sync: bool, gain: float
    ) -> None:
        """Run the backward passes of one phase.

        Args:
            phase: 'Gmain', 'Greg', 'Gboth', 'Dmain', 'Dreg' or 'Dboth'.
            real_img: Real images, [N, C, H, W], in [-1, 1].
            real_c: Their labels, [N, c_dim].
            gen_z: Latent codes, [N, z_dim].
            gen_c: Labels of the generated images, [N, c_dim].
            sync: Average gradients between processes; True in the last accumulation round.
            gain: Factor of every loss, to compensate for lazy regularisation.

        Raises:
            ValueError: If phase is unknown, or the batch is too small for the path length penalty.
        """
        if phase not in PHASES:
            raise ValueError(f"Expected argument `phase` to be one of {PHASES}, but got {phase!r}.")
        does_Gmain = phase in ("Gmain", "Gboth")
        does_Gpl = phase in ("Greg", "Gboth") and self.pl_weight != 0
        does_Dmain = phase in ("Dmain", "Dboth")
        does_r1 = phase in ("Dreg", "Dboth") and self.r1_gamma != 0

        if does_Gmain:
            self._accumulate_G_main(gen_z, gen_c, sync and not does_Gpl, gain)
        if does_Gpl:
            self._accumulate_path_length(gen_z, gen_c, sync, gain)
        if does_Dmain and not does_r1 and self._may_join(len(real_img)):
            self._accumulate_D_joint(real_img, real_c, gen_z, gen_c, sync, gain)
            return
        gen_loss = self._accumulate_D_gen(gen_z, gen_c, gain) if does_Dmain else None
        if does_Dmain or does_r1:
            self._accumulate_D_real(real_img, real_c, gen_loss, does_r1, sync, gain)

    def _accumulate_G_main(self, gen_z: Tensor, gen_c: Tensor, sync: bool, gain: float) -> None:
        """Maximise the logits of generated images."""
        gen_img, _ = self.run_G(gen_z, gen_c, sync=sync)
        gen_logits = self.run_D(gen_img, gen_c, sync=False)
        _report_scores("fake", gen_logits)
        loss = softplus(-gen_logits)
        training_stats.report("Loss/G/loss", loss)
        loss.mean().mul(gain).backward()

    def _accumulate_path_length(self, gen_z: Tensor, gen_c: Tensor, sync: bool, gain: float) -> None:
        """Keep the length of the image gradient with respect to the latents near its running mean."""
        batch = gen_z.shape[0] // self.pl_batch_shrink
        if batch < 1:
            raise ValueError(
                f"Expected argument `gen_z` to hold at least pl_batch_shrink = {self.pl_batch_shrink} samples for the"
                f" path length penalty, but got {gen_z.shape[0]}."
            )
        gen_img, gen_ws = self.run_G(gen_z[:batch], gen_c[:batch], sync=sync)
        noise = torch.randn_like(gen_img) / math.sqrt(gen_img.shape[2] * gen_img.shape[3])
        with conv2d_gradfix.no_weight_gradients():
            (jacobian,) = torch.autograd.grad((gen_img * noise).sum(), gen_ws, create_graph=True)
        lengths = jacobian.square().sum(dim=2).mean(dim=1).sqrt()  # [n]
        # The mean stays attached inside the penalty; only its stored copy is cut off.
        mean = self.pl_mean.lerp(lengths.mean(), self.pl_decay)
        self.pl_mean.copy_(mean.detach())
        penalty = (lengths - mean).square()
        training_stats.report("Loss/pl_penalty", penalty)
        loss = penalty * self.pl_weight
        training_stats.report("Loss/G/reg", loss)
        # Zero times the image gives every parameter a gradient, which data parallelism relies on.
        (gen_img[:, 0, 0, 0] * 0 + loss).mean().mul(gain).backward()

    def _may_join(self, batch: int) -> bool:
        """Whether D judges each sample of two alternating batches as it would in a batch of its own.

        Sample n of the 2N is in statistics group n mod (2N / group size). If N is a multiple of the group size, that
        divisor is even, and samples at even places share groups with each other alone: the groups they had before.
        """
        groups = [layer.group_size for layer in self.D.modules() if isinstance(layer, MinibatchStdLayer)]
        return all(group is not None and batch % group == 0 for group in groups)

    def _accumulate_D_joint(
        self, real_img: Tensor, real_c: Tensor, gen_z: Tensor, gen_c: Tensor, sync: bool, gain: float
    ) -> None:
        """Dmain in one pass: small layers are computed faster in larger batches."""
        gen_img, _ = self.run_G(gen_z, gen_c, sync=False)
        img = torch.stack([gen_img, real_img.detach()], dim=1).flatten(0, 1)
        logits = self.run_D(img, torch.stack([gen_c, real_c], dim=1).flatten(0, 1), sync=sync)
        gen_logits, real_logits = logits.unflatten(0, (-1, 2)).unbind(dim=1)  # [N, 1] each
        _report_scores("fake", gen_logits)
        _report_scores("real", real_logits)
        loss = softplus(gen_logits) + softplus(-real_logits)
        training_stats.report("Loss/D/loss", loss)
        loss.mean().mul(gain).backward()

    def _accumulate_D_gen(self, gen_z: Tensor, gen_c: Tensor, gain: float) -> Tensor:
        """Minimise the logits of generated images; returns the loss per sample for the report."""
        gen_img, _ = self.run_G(gen_z, gen_c, sync=False)
        gen_logits = self.run_D(gen_img, gen_c, sync=False)
        _report_scores("fake", gen_logits)
        loss = softplus(gen_logits)
        loss.mean().mul(gain).backward()
        return loss.detach()

    def _accumulate_D_real(
        self, real_img: Tensor, real_c: Tensor, gen_loss: Tensor | None, does_r1: bool, sync: bool, gain: float
    ) -> None:
        """Maximise the logits of real images (unless gen_loss is None) and penalise their gradient (R1)."""
        img = real_img.detach().requires_grad_(does_r1)
        logits = self.run_D(img, real_c, sync=sync)
        _report_scores("real", logits)
        total = (logits * 0).mean()  # Every parameter gets a gradient, see above.
        if gen_loss is not None:
            loss = softplus(-logits)
            training_stats.report("Loss/D/loss", gen_loss + loss)
            total = total + loss.mean()
        if does_r1:
            with conv2d_gradfix.no_weight_gradients():
                (grads,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
            penalty = grads.square().sum(dim=[1, 2, 3])  # [N]
            training_stats.report("Loss/r1_penalty", penalty)
            training_stats.report("Loss/D/reg", penalty * (self.r1_gamma / 2))
            total = total + penalty.mean() * (self.r1_gamma / 2)
        total.mul(gain).backward()
