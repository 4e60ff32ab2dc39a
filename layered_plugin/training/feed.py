"""Real pictures for the training loop, batch after batch; all processes stop together when one has none."""

import signal
from collections.abc import Iterator
from typing import Any

import torch

from layered_plugin.data.dataset import ResumableSampler, random_crop
from layered_plugin.data.pictures import to_float
from layered_plugin.errors import LostReaderError, MaskError, PictureError
from layered_plugin.training.fading import Fade
from layered_plugin.training.setup import any_rank

LOST = (ConnectionError, EOFError, FileNotFoundError)  # Of a batch whose worker died before it was handed over.


def endless_batches(training_set: Any, data_loader_kwargs: dict[str, Any], batch_size: int, start: int, rank: int,
                    num_gpus: int, seed: int) -> Iterator[list[torch.Tensor]]:
    """A process's part of each batch, uint8 pictures [N, C, H, W] and labels [N, c_dim].

    Args:
        training_set: The pictures; those in memory need no worker processes.
        data_loader_kwargs: Arguments of torch.utils.data.DataLoader.
        batch_size: Of all processes.
        start: Position in the endless order, in pictures.
        rank, num_gpus: Which process of how many.
        seed: Of the order.
    """
    if training_set.preload():
        data_loader_kwargs = dict(pin_memory=data_loader_kwargs.get("pin_memory", False), num_workers=0)
    sampler = ResumableSampler(len(training_set), start=start, rank=rank, num_replicas=num_gpus, seed=seed)
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(torch.utils.data.DataLoader(training_set, sampler=sampler, batch_size=batch_size // num_gpus,
                                               **data_loader_kwargs))
    if signal.getsignal(signal.SIGCHLD) is not handler:  # PyTorch's raises in the midst of a step, after which nothing
        signal.signal(signal.SIGCHLD, handler)  # can be saved; without it the next batch does.
    return batches


class Feed:
    """Batches on the device, cropped at random and faded as the networks are.

    Args:
        batches: Of ``endless_batches``; the pictures may have their masks as a fourth channel.
        resolution: Of the networks.
        fade: Of a stage of a growing run, or None.
        device: Where the batches go.
        voters: Processes in which a picture can be unreadable: all, or 1 if all have the pictures in memory.
    """

    def __init__(self, batches: Iterator[list[torch.Tensor]], resolution: int, fade: Fade | None,
                 device: torch.device, voters: int):
        self._batches, self._resolution, self._fade = batches, resolution, fade
        self._device, self._voters = device, voters

    def next(self, cur_nimg: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [N, C, H, W] in [-1, 1], of a mask 1 = object, and labels [N, c_dim].

        Args:
            cur_nimg: Pictures shown so far.

        Raises:
            PictureError: Too many pictures can't be read, in this process or another.
            MaskError: A mask can't be used.
            LostReaderError: A worker process was killed.
        """
        failure: PictureError | MaskError | None = None
        try:
            img, c = next(self._batches)
        except (PictureError, MaskError) as err:
            # Of a worker process the text is a traceback, whose last line has the error.
            text = str(err).strip().splitlines()[-1].rpartition(f"{type(err).__name__}: ")[2]
            failure = PictureError(text) if isinstance(err, PictureError) else MaskError(f"`masks`: {text}")
        except (RuntimeError, *LOST) as err:
            if isinstance(err, RuntimeError) and "DataLoader worker" not in str(err):
                raise
            failure = LostReaderError("a process that reads pictures was killed, perhaps for lack of memory (fewer "
                                      "`workers` need less)")
        if any_rank([failure is not None], self._voters, self._device)[0]:
            raise failure or PictureError("pictures or masks can't be read any more in another process")
        img, c = (tensor.to(self._device, non_blocking=True) for tensor in (img, c))
        img = to_float(random_crop(img, self._resolution))
        if self._fade is not None:
            self._fade.move_to(cur_nimg)
            img = self._fade.blend_real(img)
        return img, c
