"""Train encoders: one for a whole data set, or one for each chunk of it, as the paper does; run folder, model file.

The work of ``invert.py train``.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layered_plugin.data.dataset import RealPictures
from layered_plugin.data.labels import labels_of_training
from layered_plugin.data.pictures import PictureSource, to_float, to_square
from layered_plugin.device import must_fp32, tune_cpu
from layered_plugin.errors import CheckpointError
from layered_plugin.grids import picture_rows, save_picture
from layered_plugin.model.encoder import Encoder, decode
from layered_plugin.model.layers import composite
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.progress import progress
from layered_plugin.runs import forget_states
from layered_plugin.segmentation.fitting import settle_batch_norm, settle_on_real
from layered_plugin.segmentation.inversion import LOSS_OPTIONS, EncoderTraining
from layered_plugin.segmentation.model_file import fingerprint, save_model, save_tensors, start_from
from layered_plugin.segmentation.stage import ModelRun
from layered_plugin.signals import StopRequest

SAMPLES = 12  # Columns of the pictures of a run.


def train_encoder(run_dir: Path, options: dict[str, Any], record: dict[str, Any]) -> str | None:
    """Train, or go on training, encoders in their run folder.

    Args:
        run_dir: Existing folder; an unfinished run in it is continued.
        options: Values of the options of ``invert.py train``.
        record: Further entries of model.json.

    Returns:
        None, or the name of the signal that stopped the run after saving.

    Raises:
        CheckpointError, ModelError, PictureError, ValueError, NonFiniteLossError: What the user can mend.
    """
    return (_train_chunks if options["mode"] == "chunks" else _train_dataset)(run_dir, options, record)


def prepare(options: dict[str, Any]) -> tuple[EncoderTraining, dict[str, Any]]:
    """Networks and optimizer of one training, from the options alone: the same in every process.

    Raises:
        CheckpointError: The snapshot can't be used, or draws several objects.
        ModelError: ``init`` is no encoder, or was trained for another generator.
        ValueError: The discriminator has no features of the resolution asked for.
    """
    tune_cpu()
    device = options["device"]
    snapshot = load_snapshot(options["network"], device)
    G, D = snapshot["G_ema"], snapshot["D"]
    if getattr(G, "num_objects", 1) > 1:
        raise CheckpointError(f"{snapshot['path']}: draws {G.num_objects} objects a picture, but an encoder finds one; "
                              "use invert.py distill")
    torch.manual_seed(options["seed"])
    E = Encoder(G.img_resolution, G.num_ws, G.w_dim, max_shift=options["max_shift"], from_mean=options["from_mean"])
    E.set_mean(G.mapping.w_avg)
    if options["init"] is not None:
        start_from(E, G, options["init"])
    E = E.to(device).requires_grad_(True)
    training = EncoderTraining(
        E, G, D, **{name: options[name] for name in LOSS_OPTIONS if name in options}, lr=options["lr"],
        force_fp32=must_fp32(G),
        labels=labels_of_training(snapshot.get("training_set_kwargs"), G.c_dim) if options["pretrain"] > 0 else None)
    return training, dict(E=E, G=G, D=D)


def _train_dataset(run_dir: Path, options: dict[str, Any], record: dict[str, Any]) -> str | None:
    training, networks = prepare(options)
    E, resolution, batch = training.E, networks["G"].img_resolution, options["batch"]
    real = RealPictures(options["data"], resolution, options["seed"], options["device"])
    if options["pretrain"] > 0:
        stopped = _pretrain(run_dir, options, training)
        if stopped is not None:
            return stopped
    run = ModelRun(run_dir, "encoder", "Real pictures", options["steps"], batch,
                   dict(E=E, optimizer=training.optimizer), {})
    real.start_at(run.step * batch)
    E.train()
    stopped = run.loop(lambda _step: training.step(real.batch(batch)))
    if stopped is not None:
        return stopped
    settle_on_real(E, real)
    _save_samples(run_dir / f"samples{run.steps:06d}.png", networks, real.batch(SAMPLES))
    save_model(run_dir, "encoder", networks, dict(record, resolution=resolution, options=options,
                                                  generator=fingerprint(networks["G"])))
    forget_states(run_dir)
    return None


def _pretrain(run_dir: Path, options: dict[str, Any], training: EncoderTraining) -> str | None:
    generator = torch.Generator().manual_seed(options["seed"])
    max_px = round(options["max_shift"] * training.G.img_resolution)
    run = ModelRun(run_dir, "generated", "Generated pictures", options["pretrain"], options["batch"],
                   dict(E=training.E, optimizer=training.optimizer), dict(scenes=generator))
    training.E.train()
    return run.loop(lambda _step: training.pretrain_step(options["batch"], max_px, generator))


def _train_chunks(run_dir: Path, options: dict[str, Any], record: dict[str, Any]) -> str | None:
    training, networks = prepare(options)  # Also finds what is wrong before any process starts.
    source = PictureSource(options["data"])
    names, size = source.names[:options["num"]], options["chunk_size"]
    source.close()
    parts = [names[start:start + size] for start in range(0, len(names), size)]
    if len(parts[-1]) == 1:
        raise ValueError(f"--chunk-size={size} leaves a last chunk of one of the {len(names)} pictures, but batch "
                         "normalisation needs two: choose another size or --num")
    tasks = [(run_dir, f"chunk-{idx:05d}.safetensors", part, options) for idx, part in enumerate(parts)]
    if options["jobs"] == 1:
        for idx, task in enumerate(tasks):
            stopped = train_chunk(*task, label=f"Chunk {idx + 1} of {len(tasks)}")
            if stopped is not None:
                return stopped
    else:
        stopped = _train_side_by_side(tasks, options["jobs"])
        if stopped is not None:
            return stopped
    chunks = [dict(file=file, names=part) for _, file, part, _ in tasks]
    save_model(run_dir, "chunks", networks, dict(record, resolution=networks["G"].img_resolution, options=options,
                                                 generator=fingerprint(networks["G"]), chunks=chunks))
    return None


_halt: Any = None  # In the processes of a pool: the event by which the main process stops them.


def _train_side_by_side(tasks: list[tuple[Any, ...]], jobs: int) -> str | None:
    """Train chunks in processes of their own; on a signal or an error all save at their next step and stop."""
    context = multiprocessing.get_context("spawn")
    halt = context.Event()
    stopped = None
    with StopRequest() as stop, ProcessPoolExecutor(jobs, context, _join_pool, (halt,)) as pool:
        # New processes inherit the block: until they are ready, Ctrl-C is for the main process alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        futures = [pool.submit(train_chunk, *task) for task in tasks]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            for future in progress(_completed(futures, stop), len(tasks), "Chunks"):
                stopped = future.result()
                if stopped is not None:
                    break
        except BrokenProcessPool as err:
            raise ValueError("a process of --jobs was killed, perhaps for lack of memory; go on with --resume and "
                             "fewer --jobs") from err
        finally:
            halt.set()
            pool.shutdown(cancel_futures=True)
    return stop.received or stopped


_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def _join_pool(halt: Any) -> None:
    global _halt
    _halt = halt
    for number in _SIGNALS:  # Outside of its steps a process leaves them to the main process.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _completed(futures: list[Future], stop: StopRequest) -> Iterator[Future]:
    waiting = set(futures)
    while waiting and stop.received is None:
        done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        yield from done


def train_chunk(run_dir: Path, file: str, names: list[str], options: dict[str, Any],
                label: str | None = None) -> str | None:
    """Train the encoder of one chunk, unless its file is there already.

    Args:
        run_dir: Of the whole run.
        file: Name for the weights.
        names: Pictures of the chunk.
        options: As for `train_encoder`.
        label: Shown with the progress; None = in a process of its own, which shows none and shares the cores.

    Returns:
        As `train_encoder`.
    """
    if (run_dir / file).is_file():
        return None
    if _halt is not None and _halt.is_set():
        return "SIGTERM"
    if label is None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options["jobs"]))
    training, networks = prepare(options)
    E, resolution, batch = training.E, networks["G"].img_resolution, options["batch"]
    source = PictureSource(options["data"])
    squares = np.stack([to_square(source.open(name), resolution) for name in names])
    source.close()
    img = to_float(torch.from_numpy(squares)).to(options["device"])
    folder = run_dir / Path(file).stem
    folder.mkdir(exist_ok=True)
    order = torch.Generator().manual_seed(options["seed"])
    run = ModelRun(folder, "encoder", label or "", options["steps"], min(batch, len(img)),
                   dict(E=E, optimizer=training.optimizer), dict(order=order),
                   halted=lambda: _halt is not None and _halt.is_set())
    E.train()
    target = training.targets(img)  # The pictures stay the same, and so do their features.

    def step(_step: int) -> dict[str, float]:
        chosen = torch.randperm(len(img), generator=order)[:batch].to(img.device)
        return training.step(img[chosen], target[chosen])

    stopped = run.loop(step)
    if stopped is not None:
        return stopped
    settle_batch_norm(E, [img])
    _save_samples(folder / f"samples{run.steps:06d}.png", networks, img[:SAMPLES])
    save_tensors(run_dir / file, dict(E=E))
    forget_states(folder)
    return None


@torch.no_grad()
def _save_samples(path: Path, networks: dict[str, Any], img: torch.Tensor) -> None:
    layers = decode(networks["G"], networks["E"](img), force_fp32=True)
    save_picture(picture_rows({"picture": img, "reconstruct.": composite(layers), "mask": layers.mask * 2 - 1,
                               "background": layers.bg, "foreground": layers.fg}), path)
