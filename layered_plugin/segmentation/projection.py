"""The codes with which a generator draws one given picture again, found by descent on Eq. 7 without an encoder."""

import math
import pickle
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from layered_plugin.errors import ModelError, one_line
from layered_plugin.model.encoder import Codes, decode
from layered_plugin.model.layers import Layers, composite
from layered_plugin.segmentation.reconstruction import Reconstruction, autoencoder_loss

SPACES = ("w", "w+")

CANDIDATES = 128  # Random codes, of which the best is where the descent starts.
BATCH = 32  # Of these, at a time.


class PerceptualDistance:
    """LPIPS distance by upstream's `vgg16.pt`, a TorchScript file; it is not downloaded.

    Args:
        path: The file. Loading it runs its code.
        device: Where to compute.

    Raises:
        ModelError: It is missing or no TorchScript; the text names it.
    """

    def __init__(self, path: str, device: torch.device | str) -> None:
        try:
            with warnings.catch_warnings():  # TorchScript is deprecated, and the format of the file.
                warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated")
                self._vgg: Any = torch.jit.load(path, map_location=device).eval()
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as err:
            reason = one_line((str(err).strip().splitlines() or [""])[-1])
            raise ModelError(f"{path}: no TorchScript network such as upstream's vgg16.pt: {reason}") from err

    def features(self, img: torch.Tensor) -> torch.Tensor:
        """Features whose squared differences sum up to the distance, [N, F], of pictures [N, 3, H, W] in [-1, 1]."""
        img = (img + 1) * 127.5
        if img.shape[2] > 256:
            img = F.interpolate(img, size=[256, 256], mode="area")
        return self._vgg(img, resize_images=False, return_lpips=True)


class Step(NamedTuple):
    """Where a projection stands."""

    ws: torch.Tensor  # [1, num_ws, w_dim], of all parts.
    layers: Layers  # What they draw.
    terms: dict[str, float]  # Loss, and those of Eq. 7 by name.


def project(reconstruction: Reconstruction, img: torch.Tensor, c: torch.Tensor, steps: int, space: str = "w",
            seed: int = 303, lr: float = 0.05, perceptual: PerceptualDistance | None = None,
            perceptual_weight: float = 1.0) -> Iterator[Step]:
    """Find the codes of a picture; the networks stay as they are.

    Args:
        reconstruction: Eq. 7 for a generator and its discriminator.
        img: The picture, [1, 3, R, R], in [-1, 1].
        c: Its label, [1, c_dim].
        steps: Of Adam; the learning rate falls to 0 along a cosine.
        space: "w" = one code per part, the same for all layers of its network, as upstream's projector; "w+" = a code
            per layer.
        seed: Of the random codes among which the start is chosen.
        lr: Learning rate at the start.
        perceptual: Another distance to add.
        perceptual_weight: Its weight.

    Yields:
        The start, and what each step has reached: `steps` + 1 in all. The last is the result.
    """
    G, generator = reconstruction.G, torch.Generator().manual_seed(seed)
    target = reconstruction.targets(img)
    goal = torch.zeros(0) if perceptual is None else perceptual.features(img)
    still = torch.zeros(1, 2, device=img.device)

    def evaluate(ws: torch.Tensor) -> tuple[torch.Tensor, Step]:
        loss, layers, terms = reconstruction(Codes(ws, still), img, target)
        if perceptual is not None:
            distance = (perceptual.features(composite(layers)) - goal).square().sum()
            terms = dict(terms, perceptual=distance.item())
            loss = loss + perceptual_weight * distance
        return loss, Step(ws.detach(), Layers(*(layer.detach() for layer in layers)), dict(terms, loss=loss.item()))

    z = torch.randn([CANDIDATES, G.z_dim], generator=generator).to(img.device)
    with torch.no_grad():
        mapped = G.mapping(z, c.expand(CANDIDATES, -1), truncation_psi=0.7)
        choices = torch.cat([G.mapping.w_avg.expand(1, G.num_ws, -1), mapped])
        distances = torch.cat([_distances(reconstruction, ws, img, target) for ws in choices.split(BATCH)])
        start = choices[distances.argmin()]
    code = start[None, :1 if space == "w" else None].clone().requires_grad_()
    optimizer = torch.optim.Adam([code], lr=lr, betas=(0.9, 0.999))
    for step in range(steps + 1):
        loss, reached = evaluate(code.expand(-1, G.num_ws, -1))
        yield reached
        if step < steps:
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def _distances(reconstruction: Reconstruction, ws: torch.Tensor, img: torch.Tensor,
               target: torch.Tensor) -> torch.Tensor:
    """How far what each of N codes draws is from one picture, by Eq. 7, [N]."""
    layers = decode(reconstruction.G, Codes(ws, torch.zeros(len(ws), 2, device=ws.device)),
                    **reconstruction.synthesis_kwargs)
    l1, feature = autoencoder_loss(composite(layers), img, reconstruction.features, target)
    return l1 + reconstruction.feature_weight * feature
