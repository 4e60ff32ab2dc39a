"""Train the distilled segmenter: first on generated pairs, then on real pictures too; run folder and model file.

The work of ``invert.py distill``.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from layered_plugin.data.dataset import RealPictures
from layered_plugin.data.labels import labels_of_training
from layered_plugin.data.pictures import FEW_PICTURES, PictureSource
from layered_plugin.device import must_fp32, tune_cpu
from layered_plugin.grids import picture_rows, save_picture
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.model.unet import AnyUNet, make_unet
from layered_plugin.runs import STATS_FILE
from layered_plugin.segmentation.augment import detail_of
from layered_plugin.segmentation.colors import MARGIN, rare_border
from layered_plugin.segmentation.fitting import Fitting, settle_on_real
from layered_plugin.segmentation.pairs import PairFilter, PairSampler
from layered_plugin.segmentation.self_training import SelfTraining
from layered_plugin.segmentation.stage import SAMPLES, ModelRun, finish_run

CHANNELS = (16, 32, 64, 128)
MARGIN_BATCH, MARGIN_BATCHES = 100, 5  # Real pictures whose masks give the model's margin.
ADAPT, ADAPT_FEW = 4800, 1200  # Batches of real pictures; of a small set more do harm.
# Of ``invert.py distill``, but for its files.
DEFAULTS: dict[str, Any] = dict(
    steps=600, adapt=ADAPT, batch=64, reuse=2, shift=0.125, vary_shape=0.6, colors=True, margin=MARGIN, paste=0.5,
    min_coverage=0.02, max_coverage=0.7)
LEAST_KEPT = 0.9  # Of real pictures with a target that can be an object, in the last tenth of the steps.
MIN_PART_REAL = 0.6  # Real targets keep parts and lose holes by a stricter rule than generated ones.


def make_segmenting_unet(resolution: int, seed: int) -> AnyUNet:
    """The distilled segmenter, untrained; from 32x32 on, its coarsest level has 4x4 pixels at every resolution."""
    return make_unet(CHANNELS, seed=seed, deep=detail_of(resolution).bit_length() - 1)


def choose_adapt(data: str) -> int:
    """Batches of real pictures, folder or zip, where no number is asked for: fewer of a small set."""
    with contextlib.closing(PictureSource(data)) as pictures:
        return ADAPT_FEW if len(pictures.names) < FEW_PICTURES else ADAPT


def train_distilled(run_dir: Path, options: dict[str, Any], record: dict[str, Any]) -> str | None:
    """Train, or go on training, a distilled segmenter in its run folder.

    Args:
        run_dir: Existing folder; an unfinished run in it is continued.
        options: Values of the options of ``invert.py distill``.
        record: Further entries of model.json.

    Returns:
        None, or the name of the signal that stopped the run after saving.

    Raises:
        UserError: Something is wrong with an option or a file, or a loss is not finite.
    """
    tune_cpu()
    device, seed, batch = options["device"], options["seed"], options["batch"]
    snapshot = load_snapshot(options["network"], device)
    G = snapshot["G_ema"]
    real = None
    if options["data"] is not None and options["adapt"] > 0:  # Read now, so that a bad picture is named at once.
        real = RealPictures(options["data"], G.img_resolution, seed, device)
    torch.manual_seed(seed)
    unet = make_segmenting_unet(G.img_resolution, seed).to(device)
    sampler = PairSampler(G, options["shift"], PairFilter(options["min_coverage"], options["max_coverage"]), seed,
                          vary=options["vary_shape"], force_fp32=must_fp32(G),
                          labels=labels_of_training(snapshot.get("training_set_kwargs"), G.c_dim))
    img, mask = sampler.batch(SAMPLES)  # Also when resumed: the draws that follow must stay the same.
    if not (run_dir / "samples000000.png").is_file():
        _save_samples(run_dir / "samples000000.png", img, mask)

    fitting = Fitting(unet, options["steps"])
    run = ModelRun(run_dir, "generated", "Generated pairs", options["steps"], batch,
                   dict(unet=unet, optimizer=fitting.optimizer, schedule=fitting.schedule),
                   dict(pairs=sampler.generator))
    stopped = run.loop(lambda step: dict(loss=fitting.step(*sampler.batch(batch))))
    margin = None
    if stopped is None and real is not None:
        stopped, margin = _adapt(run_dir, options, unet, real)
    if stopped is not None:
        return stopped
    measured = {} if margin is None else dict(margin=margin)
    finish_run(run_dir, "distill", dict(unet=unet.eval()), G, options, record, **measured)
    return None


def _adapt(run_dir: Path, options: dict[str, Any], unet: AnyUNet,
           real: RealPictures) -> tuple[str | None, float | None]:
    """Self-training on real pictures; the mean teacher's weights are the result.

    Returns None, or the name of the signal that stopped it; the margin at work (`rare_border`), None if it was stopped.
    """
    batch = options["batch"]
    settled = settle_on_real(unet, real)
    keep = PairFilter(options["min_coverage"], options["max_coverage"], MIN_PART_REAL)
    teaching = SelfTraining(unet, keep, options["seed"] + 1, colors=options["colors"],
                            margin=options["margin"], paste=options["paste"], reuse=options["reuse"])
    fitting = Fitting(unet, options["adapt"] * options["reuse"])

    def step(_step: int) -> dict[str, float]:
        kept, losses = 0, []
        for img, mask in teaching.batches(real.batch(batch)):
            kept += len(img)
            if len(img) > 1:  # Batch normalisation needs two.
                losses.append(fitting.step(img, mask))
                teaching.follow()
        terms = dict(kept=kept / (batch * options["reuse"]))
        return dict(terms, loss=sum(losses) / len(losses)) if losses else terms

    run = ModelRun(run_dir, "real", "Real pictures", options["adapt"], batch,
                   dict(unet=unet, teacher=teaching.mean_teacher, optimizer=fitting.optimizer,
                        schedule=fitting.schedule),
                   dict(teaching=teaching.generator))
    real.start_at(settled + run.step * batch)
    stopped, margin = run.loop(step), None
    if stopped is None:
        unet.load_state_dict(teaching.mean_teacher.state_dict())
        opacities = [teaching.opinions(real.batch(MARGIN_BATCH)) for _ in range(MARGIN_BATCHES)]
        margin = rare_border(torch.cat(opacities))
        _warn_of_lost_objects(run_dir, options)
        img = real.batch(SAMPLES)
        _save_samples(run_dir / f"samples{run.steps:06d}.png", img, teaching.targets(img))
    return stopped, margin


def _warn_of_lost_objects(run_dir: Path, options: dict[str, Any]) -> None:
    """Say so where self-training ended with masks that can't be objects: healthy ones rarely are, whatever is shown."""
    lines = [json.loads(line) for line in (run_dir / STATS_FILE).read_text().splitlines()]
    kept = [line["kept"] for line in lines if line.get("stage") == "real" and "kept" in line]
    last = kept[-max(1, len(kept) // 10):]
    share = sum(last) / max(len(last), 1)
    if last and share < LEAST_KEPT:  # Nothing is known where the file is another's, or was removed.
        print(f"WARNING: {1 - share:.0%} of the pictures ended without a mask of {options['min_coverage']:.0%} to "
              f"{options['max_coverage']:.0%} of the picture: objects smaller or larger than that (--min-coverage and "
              "--max-coverage of invert.py distill), or masks that fall apart; look at the samples, and if they do, "
              "a larger --batch or fewer of them (--adapt) help there", file=sys.stderr)


def _save_samples(path: Path, img: torch.Tensor, mask: torch.Tensor) -> None:
    save_picture(picture_rows({"picture": img, "mask": mask * 2 - 1}), path)
