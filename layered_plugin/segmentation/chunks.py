"""The chunk protocol of the paper: an encoder for each 100 pictures, trained on these alone.

"Segmenting real images" in section 4 of the paper. Chunks know nothing of one another, so that they can be trained side
by side, in processes of their own; a finished one is a file, and is not trained again.
"""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layered_plugin.cores import usable_cores
from layered_plugin.data.pictures import PictureSource, to_float, to_square
from layered_plugin.errors import ArgumentError, UserError
from layered_plugin.progress import progress
from layered_plugin.runs import forget_states
from layered_plugin.segmentation.encoder_training import prepare, save_samples
from layered_plugin.segmentation.fitting import settle_batch_norm
from layered_plugin.segmentation.model_file import save_tensors
from layered_plugin.segmentation.stage import ModelRun
from layered_plugin.signals import STOPS, StopRequest, end_with_parent

_halt: Any = None  # In the processes of a pool: the event by which the main process stops them.


def split_pictures(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Which pictures make up each chunk, in the order of their names, by the options of ``invert.py train``.

    Returns:
        For each chunk `file`, the name for its encoder's weights, and of its pictures `names` and `bytes`.

    Raises:
        PictureError: The data can't be read.
        ArgumentError: A single picture is left over for the last chunk.
    """
    source = PictureSource(options["data"])
    names, size = source.names[:options["num"]], options["chunk_size"]
    num_bytes = dict(zip(names, map(source.size, names), strict=True))
    source.close()
    parts = [names[start:start + size] for start in range(0, len(names), size)]
    if len(parts[-1]) == 1:
        raise ArgumentError(f"`chunk_size`={size} leaves a last chunk of one of the {len(names)} pictures, but batch "
                            "normalisation needs two: choose another size or `num`")
    return [dict(file=f"chunk-{idx:05d}.safetensors", names=part, bytes=[num_bytes[name] for name in part])
            for idx, part in enumerate(parts)]


def train_chunks(run_dir: Path, chunks: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    """Train the encoders of all chunks of `split_pictures` that have no file yet, `--jobs` at a time.

    Returns None, or the name of the signal that stopped the run after saving. UserError if a process was killed.
    """
    tasks = [(run_dir, chunk["file"], chunk["names"], options) for chunk in chunks]
    if options["jobs"] > 1:
        return _train_side_by_side(tasks, options["jobs"])
    for number, task in enumerate(tasks, start=1):
        stopped = train_chunk(*task, label=f"Chunk {number} of {len(tasks)}")
        if stopped is not None:
            return stopped
    return None


def train_chunk(run_dir: Path, file: str, names: list[str], options: dict[str, Any],
                label: str | None = None) -> str | None:
    """Train the encoder of one chunk, unless its file is there already; returns what `train_chunks` does.

    The label is shown with the progress; None = in a process of its own, which shows none and shares the cores.
    """
    if (run_dir / file).is_file():
        return None
    if _halt is not None and _halt.is_set():
        return "SIGTERM"
    if label is None:
        torch.set_num_threads(max(1, usable_cores() // options["jobs"]))
    training = prepare(options)
    E, batch = training.E, options["batch"]
    source = PictureSource(options["data"])
    squares = np.stack([to_square(source.open(name), E.config["resolution"]) for name in names])
    source.close()
    img = to_float(torch.from_numpy(squares)).to(options["device"])
    folder = run_dir / Path(file).stem
    folder.mkdir(exist_ok=True)
    order = torch.Generator().manual_seed(options["seed"])
    run = ModelRun(folder, "encoder", label or "", options["steps"], min(batch, len(img)),
                   dict(E=E, optimizer=training.optimizer), dict(order=order),
                   halted=lambda: _halt is not None and _halt.is_set())
    E.train()
    target = training.reconstruction.targets(img)  # The pictures stay the same, and so do their features.

    def step(_step: int) -> dict[str, float]:
        chosen = torch.randperm(len(img), generator=order)[:batch].to(img.device)
        return training.step(img[chosen], target[chosen])

    stopped = run.loop(step)
    if stopped is not None:
        return stopped
    settle_batch_norm(E, [img])
    save_samples(folder / f"samples{run.steps:06d}.png", training, img)
    save_tensors(run_dir / file, dict(E=E))
    forget_states(folder)
    return None


def _train_side_by_side(tasks: list[tuple[Any, ...]], jobs: int) -> str | None:
    """Train chunks in processes of their own; on a signal or an error all save at their next step and stop."""
    context = multiprocessing.get_context("spawn")
    halt = context.Event()
    stopped = None
    with StopRequest() as stop, ProcessPoolExecutor(jobs, context, _join_pool, (halt,)) as pool:
        # New processes inherit the block: until they are ready, Ctrl-C is for the main process alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        futures = [pool.submit(train_chunk, *task) for task in tasks]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        try:
            for future in progress(_completed(futures, stop), len(tasks), "Chunks"):
                stopped = future.result()
                if stopped is not None:
                    break
        except BrokenProcessPool as err:
            raise UserError("a process of `jobs` was killed, perhaps for lack of memory; go on with `resume` and "
                            "fewer `jobs`") from err
        finally:
            halt.set()
            pool.shutdown(cancel_futures=True)
    return stop.received or stopped


def _join_pool(halt: Any) -> None:
    global _halt
    _halt = halt
    for number in STOPS:  # Outside of its steps a process leaves them to the main process.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    end_with_parent()


def _completed(futures: list[Future], stop: StopRequest) -> Iterator[Future]:
    waiting = set(futures)
    while waiting and stop.received is None:
        done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        yield from done
