"""Self-training: a segmenter that learnt from generated pictures goes on with real, unlabelled ones.

Not in the paper. A slow copy of the network, the mean teacher, says where the object is in a real picture; corrected by
the picture's colors and cleaned of what can't be one whole object, that is the target for the network, which sees the
picture turned and disturbed. No true mask is seen.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from layered_plugin.device import fast_half
from layered_plugin.model.unet import AnyUNet
from layered_plugin.segmentation.augment import detail_of, disturb, random_affine
from layered_plugin.segmentation.colors import MARGIN, correct_by_colors
from layered_plugin.segmentation.pairs import PairFilter
from layered_plugin.segmentation.pasting import paste_objects

TURN = 15.0  # Degrees to either side, at most: most pictures show what is upright.


@dataclass
class SelfTraining:
    """Targets for real pictures, from a mean teacher (Tarvainen and Valpola, 2017): a copy that follows the network."""

    unet: AnyUNet  # The network in training.
    keep: PairFilter  # Cleans masks, and says which of them serve.
    seed: int  # Of augmentation.
    decay: float = 0.99  # Of the mean teacher's moving average, a step.
    colors: bool = True  # Correct what the teacher says by the colors of the picture (`correct_by_colors`)?
    margin: float = MARGIN  # As of `correct_by_colors`.
    paste: float = 0.5  # Share of the pictures whose object is pasted on the ground of another (`paste_objects`).
    reuse: int = 2  # How often a batch is learnt from, augmented anew.

    def __post_init__(self) -> None:
        self.mean_teacher = copy.deepcopy(self.unet).eval().requires_grad_(False)
        self.generator = torch.Generator().manual_seed(self.seed)

    @torch.no_grad()
    def targets(self, img: torch.Tensor) -> torch.Tensor:
        """Object pixels of real pictures, [N, 1, H, W], float, 0 or 1: `opinions`, in which colors have a say."""
        mean = self.opinions(img)
        if self.colors:
            mean = correct_by_colors(img, mean, self.margin)
        return (mean > 0.5).to(img.dtype)

    @torch.no_grad()
    def opinions(self, img: torch.Tensor) -> torch.Tensor:
        """Opacities that the teacher gives real pictures, averaged with those of their mirror images.

        [N, 3, H, W] in [-1, 1] to [N, 1, H, W] in [0, 1].
        """
        with fast_half(img.device):
            logits = self.mean_teacher(torch.cat([img, img.flip(3)]).contiguous(memory_format=torch.channels_last))
        opacity, mirrored = logits.float().sigmoid().chunk(2)
        return (opacity + mirrored.flip(3)) / 2

    def batches(self, img: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Augmented real pictures with targets, `reuse` times: finding these takes nearly as long as a step.

        Args:
            img: Pictures, [N, 3, H, W], in [-1, 1].

        Yields:
            Pictures [M, 3, H, W] and targets [M, 1, H, W], M <= N: pictures whose target can't be an object are left
            out. Those with pasted objects come last, each time others.
        """
        img, mask = self.keep(img, self.targets(img))
        for turn in range(self.reuse):
            first = turn * len(img) // self.reuse
            yield self._augment(img.roll(-first, 0), mask.roll(-first, 0))

    def _augment(self, img: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        num_whole = len(img) - round(self.paste * len(img))
        if num_whole < len(img):
            pasted = self.keep(*paste_objects(img[num_whole:], mask[num_whole:], self.generator))
            img, mask = torch.cat([img[:num_whole], pasted[0]]), torch.cat([mask[:num_whole], pasted[1]])
        if len(img) > 0:
            img, mask = random_affine(img, mask, self.generator, angle=TURN, translation=0.05)
            img = disturb(img, self.generator, detail_of(img.shape[-1]))
        return img, mask

    @torch.no_grad()
    def follow(self) -> None:
        """Move the teacher towards the network, after each of its steps."""
        for slow, current in zip(self.mean_teacher.state_dict().values(), self.unet.state_dict().values(), strict=True):
            if slow.is_floating_point():
                slow.lerp_(current, 1 - self.decay)
            else:
                slow.copy_(current)
