"""Real pictures for the training loop, batch after batch; all processes stop together when one has none."""

from collections.abc import Iterator

import torch

from layered_plugin.data.pictures import random_crop, to_float
from layered_plugin.errors import PictureError
from layered_plugin.training.fading import Fade
from layered_plugin.training.setup import any_rank


class Feed:
    """Batches of a data loader on the device, cropped at random and faded as the networks are.

    Args:
        batches: Of the data loader: uint8 pictures [N, C, H, W], labels [N, c_dim].
        resolution: Of the networks.
        fade: Of a stage of a growing run, or None.
        device: Where the batches go.
        num_gpus: Number of processes.
        in_memory: Are all pictures decoded, so that none can be unreadable?
    """

    def __init__(self, batches: Iterator[list[torch.Tensor]], resolution: int, fade: Fade | None,
                 device: torch.device, num_gpus: int, in_memory: bool):
        self._batches, self._resolution, self._fade, self._device = batches, resolution, fade, device
        self._voters = 1 if in_memory else num_gpus

    def next(self, cur_nimg: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [N, C, H, W] in [-1, 1] and labels [N, c_dim].

        Args:
            cur_nimg: Pictures shown so far.

        Raises:
            PictureError: Too many pictures can't be read, in this process or another.
        """
        failure = None
        try:
            img, c = next(self._batches)
        except PictureError as err:
            # Of a worker process the text is a traceback, whose last line has the error.
            failure = PictureError(str(err).strip().splitlines()[-1].rpartition("PictureError: ")[2])
        if any_rank([failure is not None], self._voters, self._device)[0]:
            raise failure or PictureError("too many pictures can't be read in another process")
        img, c = (tensor.to(self._device, non_blocking=True) for tensor in (img, c))
        img = to_float(random_crop(img, self._resolution))
        if self._fade is not None:
            self._fade.move_to(cur_nimg)
            img = self._fade.blend_real(img)
        return img, c
