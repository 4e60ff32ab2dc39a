"""Train encoders: one for a whole data set, or one for each chunk of it, as the paper does; run folder, model file.

The work of ``invert.py train``.
"""

from pathlib import Path
from typing import Any

import torch

from layered_plugin.data.dataset import RealPictures
from layered_plugin.segmentation.chunks import split_pictures, train_chunks
from layered_plugin.segmentation.encoder_training import EncoderTraining, prepare, save_samples
from layered_plugin.segmentation.fitting import settle_on_real
from layered_plugin.segmentation.stage import SAMPLES, ModelRun, finish_run


def train_encoder(run_dir: Path, options: dict[str, Any], record: dict[str, Any]) -> str | None:
    """Train, or go on training, encoders in their run folder; as ``train_distilled``, by options of ``train``."""
    training = prepare(options)  # For chunks too: what is wrong shows before any process starts.
    more: dict[str, Any] = {}
    if options["mode"] == "chunks":
        more["chunks"] = split_pictures(options)
        stopped = train_chunks(run_dir, more["chunks"], options)
    else:
        stopped = _train_dataset(run_dir, options, training)
    if stopped is None:
        kind = "chunks" if options["mode"] == "chunks" else "encoder"
        G, D = training.reconstruction.G, training.reconstruction.D
        finish_run(run_dir, kind, dict(E=training.E, G=G, D=D), G, options, record, **more)
    return stopped


def _train_dataset(run_dir: Path, options: dict[str, Any], training: EncoderTraining) -> str | None:
    E, batch = training.E, options["batch"]
    real = RealPictures(options["data"], E.config["resolution"], options["seed"], options["device"])
    if options["pretrain"] > 0:
        stopped = _pretrain(run_dir, options, training)
        if stopped is not None:
            return stopped
    run = ModelRun(run_dir, "encoder", "Real pictures", options["steps"], batch,
                   dict(E=E, optimizer=training.optimizer), {})
    real.start_at(run.step * batch)
    E.train()
    stopped = run.loop(lambda _step: training.step(real.batch(batch)))
    if stopped is None:
        settle_on_real(E, real)
        save_samples(run_dir / f"samples{run.steps:06d}.png", training, real.batch(SAMPLES))
    return stopped


def _pretrain(run_dir: Path, options: dict[str, Any], training: EncoderTraining) -> str | None:
    generator = torch.Generator().manual_seed(options["seed"])
    max_px = round(options["max_shift"] * training.E.config["resolution"])
    run = ModelRun(run_dir, "generated", "Generated pictures", options["pretrain"], options["batch"],
                   dict(E=training.E, optimizer=training.optimizer), dict(scenes=generator))
    training.E.train()
    return run.loop(lambda _step: training.pretrain_step(options["batch"], max_px, generator))
