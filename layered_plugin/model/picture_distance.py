"""Frechet distance of generated pictures from real ones, by features learnt on the spot; needs no download.

FID's formula (Heusel et al. 2017) on a network so small that seconds suffice to train it: it learns to know a real
picture again in another crop, mirrored and in other colours, among the other pictures of the batch (contrastive
learning, Chen et al. 2020). Distances of one feature network are comparable, those of different data sets are not.
"""

import itertools

import torch
from torch.nn import functional as F

from layered_plugin.device import seeded_cpu

FEATURES = 64
TEMPERATURE = 0.2
BATCH = 64  # Pictures a step.


class PictureFeatures:
    """Features of pictures, learnt from real ones alone; leaves torch's generators as they were.

    Args:
        real: Real pictures, [N, C, H, W], uint8 or float in [-1, 1], N at least 2; H and W at least 8.
        seed: Of the weights and of the training.
        steps: Of the training.
    """

    def __init__(self, real: torch.Tensor, seed: int = 0, steps: int = 200) -> None:
        with seeded_cpu(seed):
            channels = [real.shape[1], 24, 48, FEATURES]
            self._net = torch.nn.Sequential(*(
                layer for ins, outs in itertools.pairwise(channels)
                for layer in (torch.nn.Conv2d(ins, outs, 3, stride=2, padding=1), torch.nn.BatchNorm2d(outs),
                              torch.nn.LeakyReLU(0.2))))
            head = torch.nn.Sequential(torch.nn.Linear(FEATURES, FEATURES), torch.nn.LeakyReLU(0.2),
                                       torch.nn.Linear(FEATURES, FEATURES))
            self._train(real, head, steps, min(BATCH, len(real)))
        self._net.eval().requires_grad_(False)

    def _train(self, real: torch.Tensor, head: torch.nn.Module, steps: int, batch: int) -> None:
        opt = torch.optim.Adam([*self._net.parameters(), *head.parameters()], lr=2e-3)
        for _ in range(steps):
            img = _to_float(real[torch.randint(len(real), [batch])])
            views, others = (F.normalize(head(self._pool(_another_view(img)))) for _ in range(2))
            logits = views @ others.T / TEMPERATURE  # [batch, batch]; a picture's other view is on the diagonal.
            same = torch.arange(batch)
            loss = F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()

    def _pool(self, img: torch.Tensor) -> torch.Tensor:
        return self._net(img).mean(dim=[2, 3])

    @torch.no_grad()
    def __call__(self, img: torch.Tensor, batch: int = 250) -> torch.Tensor:
        """Features of pictures as the constructor takes them, [N, 64], double."""
        return torch.cat([self._pool(_to_float(part)) for part in img.cpu().split(batch)]).double()


def _to_float(img: torch.Tensor) -> torch.Tensor:
    return img.float() / 127.5 - 1 if img.dtype == torch.uint8 else img.float().clamp(-1, 1)


def _another_view(img: torch.Tensor) -> torch.Tensor:
    """A random crop of 0.6 to 1 of the side, stretched to the whole, mirrored half of the time, in other colours."""
    num = len(img)
    scale = 0.6 + 0.4 * torch.rand(num)
    flip = torch.randint(2, [num]) * 2 - 1
    place = (2 * torch.rand(num, 2) - 1) * (1 - scale)[:, None]
    theta = torch.zeros(num, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * flip, scale, place
    view = F.grid_sample(img, F.affine_grid(theta, list(img.shape), align_corners=False), align_corners=False)
    gain, offset = 0.7 + 0.6 * torch.rand(num, img.shape[1], 1, 1), 0.2 * torch.randn(num, img.shape[1], 1, 1)
    return view * gain + offset


def frechet_distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Frechet distance of two normal distributions with the features' means and covariances.

    Args:
        ours: [N, D], N at least 2.
        theirs: [M, D], M at least 2.

    Returns:
        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), at least 0.

    Raises:
        ValueError: There are fewer than two rows on a side.
    """
    if min(len(ours), len(theirs)) < 2:
        raise ValueError(f"Expected at least 2 pictures on either side, but got {len(ours)} and {len(theirs)}")
    cov1, cov2 = torch.cov(ours.double().T), torch.cov(theirs.double().T)
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # The trace of (C1 C2)^(1/2) is that of the symmetric (C1^(1/2) C2 C1^(1/2))^(1/2).
    trace = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (ours.mean(dim=0) - theirs.mean(dim=0)).square().sum() + cov1.trace() + cov2.trace() - 2 * trace
    return max(float(distance), 0.0)
