"""The work of eval.py's commands: from option values to a record on stdout and in the run folder."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from layered_plugin import runs
from layered_plugin.command_line import writing
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.labels import labels_of_training
from layered_plugin.data.mask_files import left_out, read_pairs
from layered_plugin.data.masks import Ranges, mask_opacity
from layered_plugin.data.pictures import PictureSource
from layered_plugin.device import choose_device
from layered_plugin.errors import ModelError
from layered_plugin.evaluation import output, scoring
from layered_plugin.evaluation.judge import UNetTeacher, check_pairs, crop_side, save_judge, score_judge, train_judge
from layered_plugin.evaluation.metrics import mean_and_deviation
from layered_plugin.evaluation.options import (
    check_teacher_options,
    choose_baselines,
    keeping,
    make_teacher,
    record_folder,
    user_errors,
)
from layered_plugin.evaluation.sizes import sizes_over
from layered_plugin.evaluation.teachers import AlphaTeacher, MaskTeacher, Teacher
from layered_plugin.evaluation.variety import Comparison
from layered_plugin.model.fidelity import Fidelity
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.segmentation.segmenter import Refinement, Segmenter

SCENE_SIZE_PX = 128  # The paper enlarges its 64x64 composites for the detector; a judge sees them as they are.


def run_generated(*, networks: Sequence[str], snapshot: str, num: int, seed: int, trunc: float, teacher_kind: str,
                  detector_size: int | None, fid: str | None, fid_weights: str | None, real: str | None,
                  real_masks: str | None, real_model: str | None, mask_values: Ranges | None, batch: int,
                  device_name: str, **teacher_options: Any) -> None:
    """Body of ``eval.py generated``; parameters are its options."""
    device = choose_device(device_name)
    check_teacher_options(teacher_kind)
    if fid_weights is not None and fid is None:
        raise click.UsageError("--fid-weights can only be given with --fid")
    if real is None and (real_masks is not None or real_model is not None):
        raise click.UsageError("--real-masks and --real-model describe the pictures of --real, which is missing")
    if real is not None and num < 2:
        raise click.UsageError(f"--num must be at least 2 where scenes are compared with --real, got {num}")
    if mask_values is not None and real_masks is None:
        raise click.UsageError("--mask-values says what is object in --real-masks, which is missing")
    if real_masks is not None and real_model is not None:
        raise click.UsageError("--real-masks and --real-model are two sources of the same masks; give one")
    with user_errors(data="--fid"):
        snapshots = [load_snapshot(network, device, snapshot) for network in networks]
        teacher, description = make_teacher(teacher_kind, size_px=detector_size, device=device, **teacher_options)
        size_px = detector_size or (teacher.size_px if isinstance(teacher, UNetTeacher) else SCENE_SIZE_PX)
        folders = [record_folder(nets["path"], "--network") for nets in snapshots]
        fidelity = Fidelity(fid_weights, device=device) if fid is not None else None
    comparison = None
    if real is not None:
        with user_errors(data="--real", teacher="--real-masks", model="--real-model"):
            model = None if real_model is None else Segmenter.load(real_model, device)
            if model is not None and model.kind == "chunks":
                raise ModelError(f"{model.folder}: encoders of chunks know only their own pictures; give a model of "
                                 "invert.py distill, or train --mode=dataset")
            comparison = Comparison(real, real_masks, model, mask_values)
    with user_errors(data="--real" if fid is None else "--fid"):
        records = []
        for nets, folder in zip(snapshots, folders, strict=True):
            drawing = dict(size_px=size_px, trunc=trunc, batch=batch)
            scores = _score_network(nets, teacher, num, seed, drawing, fidelity, fid)
            if comparison is not None:
                with user_errors(data="--real", teacher="--weights" if real_masks is None else "--real-masks"):
                    scores["variety"] = comparison(nets, teacher, num, seed, drawing)
            record = dict(protocol="generated", network=nets["path"],
                          resolution=nets["G_ema"].img_resolution, teacher=description, detector_size=size_px,
                          seed=seed, trunc=trunc, **scores, **runs.provenance("eval.py"))
            click.echo(f"{record['network']}\n{record['num_detected']} of {num} scenes with an object\n"
                       + output.score_table([("generated masks", record)]), err=True)
            if comparison is not None:
                click.echo(output.variety_table(record["variety"]), err=True)
            records.append(record)
            if len(snapshots) == 1:
                click.echo(json.dumps(record))
            if folder is not None:
                with keeping("--network", folder):  # At once, for the next network may take hours.
                    output.append_record(folder, runs.GENERATED_FILE, record)
    if len(records) > 1:
        over = _over_networks(records)
        click.echo(output.spread_line(over, len(records), "networks"), err=True)
        click.echo(json.dumps(dict(networks=records, over_networks=over)))


def _score_network(snapshot: Mapping[str, Any], teacher: Teacher, num: int, seed: int, drawing: dict[str, Any],
                   fidelity: Fidelity | None, fid: str | None) -> dict[str, Any]:
    """Scores of one generator's scenes, with FID and KID if wanted."""
    G_ema, training_set = snapshot["G_ema"], snapshot.get("training_set_kwargs") or {}
    labels = labels_of_training(training_set, G_ema.c_dim)
    if fid is not None:  # Read now, so that what is wrong with it is said before the work.
        real = PictureDataset(fid, training_set.get("size_px"), G_ema.img_resolution)
    scores = scoring.score_generated(G_ema, teacher, num=num, seed=seed, labels=labels, **drawing)
    if fidelity is not None:
        distances = fidelity(G_ema, real, num, seed, drawing["trunc"], drawing["batch"], labels)
        scores["fidelity"] = dict(distances, data=fid)
    return scores


def _over_networks(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over several networks of what one has."""
    spread = dict(mean_and_deviation(records), **_over_models(records))
    if all("variety" in record for record in records):
        spread["variety"] = mean_and_deviation([record["variety"]["shapes"]["share"] for record in records])
    if all("fidelity" in record for record in records):
        spread["fidelity"] = mean_and_deviation([record["fidelity"] for record in records])
    return spread


def run_real(*, models: Sequence[str], data: str, masks: str | None, mask_values: Ranges | None,
             teacher_kind: str | None, detector_size: int | None, num: int | None, eval_size: str, polarity: str,
             flip: bool, refine: int, posterior: bool, prior: str | None, sharp: bool, margin: float | None,
             sizes: tuple[float, ...], baselines: str, seed: int, batch: int, device_name: str,
             **teacher_options: Any) -> None:
    """Body of ``eval.py real``; parameters are its options."""
    device = choose_device(device_name)
    if (masks is None) == (teacher_kind is None):
        raise click.UsageError("either --masks or --teacher must be given, and not both")
    if mask_values is not None and masks in (None, "alpha"):
        raise click.UsageError("--mask-values says what is object in files of --masks, which are missing")
    if masks is not None and (teacher_options["weights"] or teacher_options["class_name"]):
        raise click.UsageError("--weights and --class describe a --teacher; leave them out with --masks")
    check_teacher_options(teacher_kind)
    if detector_size is not None and teacher_kind != "unet":
        raise click.UsageError("--detector-size is for --teacher=unet; other truths have the picture's size")
    with user_errors(teacher="--weights" if masks is None else "--masks"):
        source = PictureSource(data)
        segmenters = [Segmenter.load(model, device) for model in models]
        prior_model = None if prior is None else Segmenter.load(prior, device)
        refinement = Refinement(flip, refine, posterior, prior_model, sharp, margin)
        _check_models(segmenters, eval_size, refinement)
        names, size_px = source.names, segmenters[0].resolution
        teacher: Teacher
        if masks == "alpha":
            teacher, description = AlphaTeacher(source), dict(kind="masks", path=masks)
        elif masks is not None:
            teacher, description = MaskTeacher(masks, mask_values), dict(kind="masks", path=masks)
            missing = teacher.check_names(names, data, some=True)
            for line in left_out(missing, f"{len(names)} pictures of {data} have no mask in {masks}"):
                click.echo(f"WARNING: {line}", err=True)
            names = [name for name in names if name in teacher]
        else:
            teacher, description = make_teacher(str(teacher_kind), size_px=detector_size, device=device,
                                                **teacher_options)
        _check_pictures(segmenters, source, names[:num])
        chosen_baselines = choose_baselines(baselines)
        folders = [record_folder(segmenter.folder, "--model") for segmenter in segmenters]
        scores, extremes = scoring.score_real(
            segmenters, source, names[:num], teacher, baselines=chosen_baselines,
            size_px=size_px if eval_size == "net" else None, oracle_polarity=polarity == "oracle",
            refinement=refinement, sizes=sizes, seed=seed, batch=batch)
    scored = [dict(model=str(path), kind=segmenter.kind, resolution=segmenter.resolution,
                   margin=refinement.margin_for(segmenter),
                   train_seed=segmenter.options.get("seed"), network=segmenter.options.get("network"), **sets)
              for path, segmenter, sets in zip(models, segmenters, scores["models"], strict=True)]
    record = dict(protocol="real", data=data, num_data=len(source), num_left_out=len(source) - len(names),
                  num=scores["num"], num_detected=scores["num_detected"], teacher=description, eval_size=eval_size,
                  polarity=polarity, flip=flip, refine=refine, posterior=posterior, prior=prior, sharp=sharp,
                  margin=margin, sizes=list(sizes), seed=seed, models=scored, baselines=scores["baselines"],
                  **runs.provenance("eval.py"))
    everything = dict(record, over_models=_over_models(scored)) if len(scored) > 1 else record
    click.echo(output.real_table(everything, [segmenter.folder.name for segmenter in segmenters]), err=True)
    click.echo(json.dumps(everything))
    for folder, model_scores, examples in zip(folders, scored, extremes, strict=True):
        if folder is not None:
            with keeping("--model", folder):
                output.append_record(folder, runs.REAL_FILE, dict(record, models=[model_scores]))
                if examples.best:
                    output.write_sheet(examples.best, folder / "real-best.png")
                    output.write_sheet(examples.worst, folder / "real-worst.png")


def run_judge(*, data: str, masks: str, test_data: str, test_masks: str, mask_values: Ranges | None, dest: str,
              steps: int, batch: int, seed: int, device_name: str) -> None:
    """Body of ``eval.py judge``; parameters are its options."""
    device = choose_device(device_name)
    pictures, truth = _read_pairs("--data, --masks", data, masks, mask_values)
    test_pictures, test_truth = _read_pairs("--test-data, --test-masks", test_data, test_masks, mask_values)
    if test_pictures.shape[-1] != pictures.shape[-1]:
        raise click.UsageError(f"--test-data must be of the size of --data, {pictures.shape[-1]} pixels, the one scale "
                               f"that the judge will know, got {test_pictures.shape[-1]}")
    with writing("--dest", Path(dest).parent):
        Path(dest).parent.mkdir(parents=True, exist_ok=True)
        output.check_writable(Path(dest).parent)
    start = time.monotonic()
    judge = train_judge(pictures, truth, steps=steps, batch=batch, seed=seed, device=device)
    seconds = time.monotonic() - start
    with writing("--dest", Path(dest).parent):
        save_judge(judge, dest, crop_side(pictures.shape[-1]))
    scores = {name: round(value, 4) if isinstance(value, float) else value
              for name, value in score_judge(judge, test_pictures, test_truth).items()}
    click.echo(json.dumps(dict(judge=dest, data=data, test_data=test_data, test_num=len(test_pictures), steps=steps,
                               batch=batch, seed=seed, train_seconds=round(seconds, 1), **scores,
                               **runs.provenance("eval.py"))))


def _read_pairs(options: str, pictures: str, masks: str, values: Ranges | None) -> tuple[np.ndarray, np.ndarray]:
    with user_errors(data=options, teacher=options):
        pairs = read_pairs(pictures, masks, lambda picture: mask_opacity(picture, values))
        check_pairs(*pairs)
    return pairs


def _check_models(segmenters: Sequence[Segmenter], eval_size: str, refinement: Refinement) -> None:
    sizes = sorted({segmenter.resolution for segmenter in segmenters})
    if eval_size == "net" and len(sizes) > 1:
        raise click.UsageError(f"--eval-size=net needs models of one resolution, got {sizes}; use --eval-size=gt")
    for segmenter in segmenters:
        refinement.check(segmenter)


def _check_pictures(segmenters: Sequence[Segmenter], source: PictureSource, names: Sequence[str]) -> None:
    """Raise ModelError for the first picture that is none of those which the chunks of a model were trained on."""
    for segmenter in segmenters:
        for name in names if segmenter.kind == "chunks" else ():
            refused = segmenter.refusal(name, source.size(name))
            if refused is not None:
                raise ModelError(refused)


def _over_models(scored: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of each score over several models."""
    detected = [model["detected"] for model in scored if model["detected"] is not None]
    over: dict[str, Any] = dict(
        detected=mean_and_deviation(detected) if detected else None,
        all=mean_and_deviation([model["all"] for model in scored]))
    if detected and "by_size" in detected[0]:
        over["by_size"] = sizes_over([model["by_size"] for model in detected])
    return over
