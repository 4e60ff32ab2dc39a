"""Steps of an encoder's training: on real pictures by Eq. 7, and on generated ones, whose codes are known.

Section 3.3 of the paper; the generated pictures are ours. Generator and discriminator stay frozen. What a run does with
these steps is in ``train_encoder.py`` (one encoder for a whole data set) and ``chunks.py`` (one for each chunk of it).
"""

from pathlib import Path
from typing import Any

import torch

from layered_plugin.data.labels import Labels, labels_of_training
from layered_plugin.device import tune_cpu
from layered_plugin.errors import CheckpointError
from layered_plugin.grids import picture_rows, save_picture
from layered_plugin.model.encoder import Encoder, decode
from layered_plugin.model.layers import composite
from layered_plugin.model.perturb import random_shift, shift_foreground
from layered_plugin.model.scenes import random_codes
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.segmentation.model_file import start_from
from layered_plugin.segmentation.reconstruction import Reconstruction
from layered_plugin.segmentation.stage import SAMPLES


class EncoderTraining:
    """Steps of encoder training.

    Args:
        E: Encoder, on its device; E.w_avg must be the generator's.
        reconstruction: The objective on real pictures.
        lr: Learning rate of Adam.
        labels: Of the generated pictures; None = every class equally likely.
    """

    def __init__(self, E: Encoder, reconstruction: Reconstruction, *, lr: float = 1e-4, labels: Labels | None = None):
        self.E, self.reconstruction = E, reconstruction
        self.labels = labels or Labels(reconstruction.G.c_dim)
        self.optimizer = torch.optim.Adam(E.parameters(), lr=lr, betas=(0.9, 0.999), fused=True)

    def step(self, real_img: torch.Tensor, target: torch.Tensor | None = None) -> dict[str, float]:
        """One step on real pictures [N, 3, R, R], in [-1, 1], by their `Reconstruction.targets`; the loss's terms."""
        loss, layers, terms = self.reconstruction(self.E(real_img), real_img, target)
        self._update(loss)
        return dict(loss=loss.item(), **terms, coverage=layers.mask.mean().item())

    def pretrain_step(self, num: int, max_px: int, generator: torch.Generator) -> dict[str, float]:
        """One step on generated pictures, whose codes, shifts and layers are known (ours, not the paper's).

        Args:
            num: Batch size.
            max_px: Largest shift of the scenes, in pixels; 0 if the encoder can't move the foreground.
            generator: Source of randomness, on the CPU.
        """
        G, synthesis_kwargs = self.reconstruction.G, self.reconstruction.synthesis_kwargs
        w_avg = self.reconstruction.w_avg
        with torch.no_grad():
            ws = random_codes(G, num, self.labels, generator)
            shift = random_shift(num, max_px, generator=generator).to(ws.device)
            still = G.synthesis(ws, noise_mode="const", return_layers=True, **synthesis_kwargs)
            scene = shift_foreground(still, shift)
        codes = self.E(composite(scene).clamp(-1, 1))
        drawn = decode(G, codes, **synthesis_kwargs)
        code = (codes.ws - ws).square().mean() / (ws - w_avg).square().mean().clamp(min=1e-8)
        # Eq. 2 reads at p + shift, which moves the foreground by -shift.
        moved = (codes.shift + shift / G.img_resolution).abs().mean()
        layer = (drawn.bg - scene.bg).abs().mean() + (drawn.mask - scene.mask).abs().mean() \
            + (composite(drawn) - composite(scene)).abs().mean()
        loss = layer + 0.1 * code + moved
        self._update(loss)
        return dict(loss=loss.item(), code=code.item(), layer=layer.item(), move=moved.item())

    def _update(self, loss: torch.Tensor) -> None:
        if not loss.isfinite():  # The run stops on it; the gradient of a shift that is not a number ends the process.
            return
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def prepare(options: dict[str, Any]) -> EncoderTraining:
    """Networks, objective and optimizer of one training, from the options alone: the same in every process.

    Raises:
        CheckpointError: The snapshot can't be used, or draws several objects.
        ModelError: ``init`` is no encoder, was trained for another generator, or is another than when the run began.
        ValueError: The discriminator has no features of the resolution asked for.
    """
    tune_cpu()
    device = options["device"]
    snapshot = load_snapshot(options["network"], device)
    G, D = snapshot["G_ema"], snapshot["D"]
    if G.num_objects > 1:
        raise CheckpointError(f"{snapshot['path']}: draws {G.num_objects} objects a picture, but an encoder finds one; "
                              "use invert.py distill")
    torch.manual_seed(options["seed"])
    E = Encoder(G.img_resolution, G.num_ws, G.w_dim, max_shift=options["max_shift"], from_mean=options["from_mean"])
    E.set_mean(G.mapping.w_avg)
    if options["init"] is not None:
        start_from(E, G, options["init"], options.get("init_sha256"))
    E = E.to(device).requires_grad_(True)
    labels = labels_of_training(snapshot.get("training_set_kwargs"), G.c_dim) if options["pretrain"] > 0 else None
    return EncoderTraining(E, Reconstruction.from_options(G, D, options), lr=options["lr"], labels=labels)


@torch.no_grad()
def save_samples(path: Path, training: EncoderTraining, img: torch.Tensor) -> None:
    """Draw the first of these pictures [N, 3, R, R] again, with their layers, as one picture file."""
    img = img[:SAMPLES]
    layers = decode(training.reconstruction.G, training.E(img), force_fp32=True)
    save_picture(picture_rows({"picture": img, "reconstruct.": composite(layers), "mask": layers.mask * 2 - 1,
                               "background": layers.bg, "foreground": layers.fg}), path)
