"""What training_options.json may hold: classes from a short list, arguments of the right type; no code from data."""

from pathlib import Path
from typing import Any

from layered_plugin import json_files
from layered_plugin.data.fingerprint import FINGERPRINT
from layered_plugin.json_files import anything, by_class, choice, either, fields, flag, list_of, maybe, number, text
from layered_plugin.model import network_rules
from layered_plugin.model.mask_losses import SIZE_OVER
from layered_plugin.model.network_rules import COUNT, FROM_ZERO, SHARE, SIDE, WEIGHT
from layered_plugin.runs import GAN_FILE
from layered_plugin.training import presets

RAMP = either(WEIGHT, list_of(WEIGHT, sizes=(2,)))  # As ``phases.ramp``.

PICTURES = by_class({"layered_plugin.data.dataset.PictureDataset": fields(
    dict(path=text, size_px=SIDE),
    dict(use_labels=flag, max_size=maybe(number(1, whole=True)), xflip=flag, random_seed=FROM_ZERO))})

GENERATOR = by_class({"layered_plugin.model.generator.LayeredGenerator": fields(*network_rules.GENERATOR_FIELDS)})

DISCRIMINATOR = by_class({"training.networks.Discriminator": fields(*network_rules.DISCRIMINATOR_FIELDS)})

OPTIMIZER = by_class({"torch.optim.Adam": fields(
    dict(lr=RAMP), dict(betas=list_of(SHARE, sizes=(2,)), eps=WEIGHT, fused=flag))})

AUGMENTATION = by_class({"training.augment.AugmentPipe": fields({}, {
    name: WEIGHT for transforms in presets.AUGPIPES.values() for name in transforms})})

_LAYERED: dict[str, Any] = dict(
    pl_weight=WEIGHT, style_mixing_prob=SHARE, shift=RAMP, mask_min=SHARE, mask_size_weight=WEIGHT,
    mask_binary_weight=RAMP, mask_border_weight=RAMP, mask_center_weight=WEIGHT, mask_overlap_weight=WEIGHT,
    bg_jitter=SHARE, mask_size_over=choice(*SIZE_OVER), mask_floor=SHARE, mask_max=SHARE, mask_variety=RAMP,
    mask_variety_weight=WEIGHT, range_weight=WEIGHT, show_masks=flag)

# What masks that are found change of the loss (``presets.MASKED``).
_FOUND = fields(dict(kimg=WEIGHT, loss_kwargs=fields({}, {
    name: _LAYERED[name] for name in presets.MASKED if name in _LAYERED})))

LOSS = by_class({
    "layered_plugin.training.loss.LayeredLoss": fields({}, dict(_LAYERED, r1_gamma=RAMP)),
    "layered_plugin.training.wgan_gp.WganGpLoss": fields({}, dict(_LAYERED, gp_weight=WEIGHT, drift_weight=WEIGHT))})

_STAGE = fields(dict(resolution=SIDE, kimg=WEIGHT, batch_size=COUNT, batch_gpu=COUNT, lr=WEIGHT))

# Keys that every version has written, then those that have a default.
CONFIG = fields(
    dict(base=text, training_set_kwargs=PICTURES, G_kwargs=GENERATOR, D_kwargs=DISCRIMINATOR, G_opt_kwargs=OPTIMIZER,
         D_opt_kwargs=OPTIMIZER, loss_kwargs=LOSS, random_seed=FROM_ZERO, num_gpus=number(1, 4096, whole=True),
         device=choice("cpu", "cuda", "mps"), resolution=SIDE, batch_size=COUNT, batch_gpu=COUNT, total_kimg=WEIGHT),
    dict(run_dir=maybe(text), data_fingerprint=(maybe(FINGERPRINT), None),
         masks_path=(maybe(text), None), D_sees_masks=flag, masks_fingerprint=(maybe(FINGERPRINT), None),
         data_loader_kwargs=(fields({}, dict(pin_memory=flag, num_workers=number(0, 1024, whole=True),
                                             prefetch_factor=maybe(COUNT))), {}),
         augment_kwargs=maybe(AUGMENTATION), metrics=(list_of(text), []),
         fid_weights=(maybe(text), None), ema_kimg=WEIGHT, ema_rampup=maybe(WEIGHT),
         G_reg_interval=maybe(COUNT), D_reg_interval=maybe(COUNT), augment_p=SHARE, ada_target=maybe(SHARE),
         ada_interval=COUNT, ada_kimg=WEIGHT, kimg_per_tick=WEIGHT, image_snapshot_ticks=maybe(COUNT),
         network_snapshot_ticks=maybe(COUNT), snapshot_minutes=(maybe(WEIGHT), None), resume_pkl=(maybe(text), None),
         init_pkl=(maybe(text), None), network_sha256=(maybe(text), None), asked=(anything, {}),
         resume_state=(maybe(text), None), fade_kimg=maybe(list_of(WEIGHT, sizes=(2,))), ramp_kimg=maybe(WEIGHT),
         cudnn_benchmark=flag, allow_tf32=flag, on_collapse=(choice("warn", "stop", "restart"), "warn"),
         stages=list_of(_STAGE), found=_FOUND))


def read_config(run_dir: Path) -> dict[str, Any]:
    """What a run of train_layered.py was asked for: `base`, and parameters of ``training_loop``.

    CheckpointError, with file and key, if it can't be read, or holds what no version of this project has written.
    """
    path = run_dir / GAN_FILE
    return json_files.check_fields(json_files.read_json(path), CONFIG, path)
