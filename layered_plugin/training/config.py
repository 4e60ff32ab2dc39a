"""Option values of ``train_layered.py`` to the parameters of ``training_loop``.

Makes no folder and computes nothing on a device; asks which devices there are, and prints what was chosen.
"""

import sys
from typing import Any

from layered_plugin import device
from layered_plugin.base import BASE
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.masked_pictures import MaskedPictures
from layered_plugin.data.pictures import CROP_RATIO
from layered_plugin.errors import ArgumentError
from layered_plugin.runs import short_name
from layered_plugin.training import growing, presets
from layered_plugin.training.checks import check_rounds
from layered_plugin.training.metrics import choose_metrics


def setup_training_config(*, data, masks, find_masks, gpus, snap, metrics, fid_weights, seed, cond, subset, mirror, cfg,
                          gamma, kimg, batch, aug, p, target, augpipe, resume, freezed, fp32, nhwc, nobench, allow_tf32,
                          workers, shift, mask_min, mask_size_weight, mask_binary_weight, mask_border_weight,
                          mask_center_weight, mask_overlap_weight, bg_jitter, mask_size_over, mask_floor, mask_max,
                          mask_variety, mask_variety_weight, range_weight, crop, objects, generator, mapping,
                          resolution, device_name, precision, batch_gpu, pl_weight, style_mix, cbase, cmax, w_dim,
                          map_depth, lr, d_lr, tick, snap_minutes, on_collapse, gan_loss, gp_weight, drift_weight, grow,
                          grow_schedule, init_from) -> tuple[str, dict[str, Any]]:
    """Turn option values into the parameters of ``training_loop``.

    Returns:
        Description for the run folder's name; the loop's parameters but for rank, training_set, abort_fn and
        progress_fn. A growing run has its ``stages`` beside them, and the last stage's parameters.

    Raises:
        ArgumentError: A value is wrong or does not fit another.
        PictureError: The data set cannot be used.
        MaskError: Its masks can't.
    """
    name, num, shown, resolution = _scan(data, masks, cond, subset, resolution, seed)
    base, batch_gpu, mbstd, stages = _divide_batch(cfg, resolution, gpus, grow, grow_schedule, batch_gpu,
                                                   dict(kimg=kimg, batch=batch, gamma=gamma, lr=lr,
                                                        map_depth=map_depth))
    check_rounds(pl_weight, mask_variety, [batch_gpu, *(stage["batch_gpu"] for stage in stages)])
    if mask_overlap_weight > 0 and objects == 1:
        raise ArgumentError(f"`mask_overlap_weight`={mask_overlap_weight:g} needs `objects` of at least 2, got 1")
    device_name, half, block = _choose_precision(device_name, gpus, precision, fp32, nhwc)
    mirror, aug = _choose_for_size(cfg, shown, base["kimg"], mirror, aug)
    presets.check_augmentation(aug, p, target, augpipe)
    presets.check_filters(augpipe, stages[0]["resolution"] if stages else resolution, bool(stages))
    metrics = choose_metrics(metrics, fid_weights)
    resume_pkl = presets.RESUME_PKLS.get(resume, resume)
    gan_loss_kwargs = _gan_loss_kwargs(gan_loss, base["gamma"], gp_weight, drift_weight)
    channels = _channels(cbase or int(base["fmaps"] * 32768), cmax, resolution)
    block_D = dict(block, freeze_layers=freezed) if freezed else block
    # Floats: current PyTorch refuses betas that mix them with integers.
    opt = dict(class_name="torch.optim.Adam", lr=base["lr"], betas=[0.0, 0.99], eps=1e-8, fused=device_name != "mps")
    size_px = round(resolution * CROP_RATIO) if crop else resolution
    config = dict(
        run_dir=None, masks_path=masks, D_sees_masks=masks is not None or find_masks > 0,
        training_set_kwargs=dict(class_name="layered_plugin.data.dataset.PictureDataset", path=str(data),
                                 size_px=size_px, use_labels=cond, max_size=subset or num, xflip=mirror,
                                 random_seed=seed),
        data_loader_kwargs=dict(pin_memory=device_name == "cuda", num_workers=workers,
                                prefetch_factor=2 if workers > 0 else None),
        G_kwargs=dict(class_name="layered_plugin.model.generator.LayeredGenerator", z_dim=w_dim, w_dim=w_dim,
                      generator=generator, mapping=mapping, num_objects=objects,
                      mapping_kwargs=dict(num_layers=base["map_depth"]),
                      synthesis_kwargs=dict(channels, **half, **block)),
        D_kwargs=dict(class_name="training.networks.Discriminator", architecture="orig" if cfg == "cifar" else "resnet",
                      **channels, **half, block_kwargs=block_D, mapping_kwargs={},
                      epilogue_kwargs=dict(mbstd_group_size=mbstd)),
        G_opt_kwargs=opt, D_opt_kwargs=opt if d_lr is None else dict(opt, lr=d_lr),
        augment_kwargs=None if aug == "noaug" else dict(class_name="training.augment.AugmentPipe",
                                                        **presets.AUGPIPES[augpipe or "bgc"]),
        loss_kwargs=dict(gan_loss_kwargs, pl_weight=pl_weight, style_mixing_prob=style_mix, shift=shift,
                         mask_min=mask_min, mask_size_weight=mask_size_weight, mask_binary_weight=mask_binary_weight,
                         mask_border_weight=mask_border_weight, mask_center_weight=mask_center_weight,
                         mask_overlap_weight=mask_overlap_weight, bg_jitter=bg_jitter, mask_size_over=mask_size_over,
                         mask_floor=mask_floor, mask_max=mask_max, mask_variety=mask_variety,
                         mask_variety_weight=mask_variety_weight, range_weight=range_weight,
                         show_masks=masks is not None),
        metrics=metrics, fid_weights=fid_weights, random_seed=seed, num_gpus=gpus, device=device_name,
        resolution=resolution, batch_size=base["batch"], batch_gpu=batch_gpu, ema_kimg=base["ema"],
        ema_rampup=base["ramp"] if resume_pkl is None else None,
        G_reg_interval=4 if pl_weight > 0 else None, D_reg_interval=None if gan_loss == "wgan-gp" else 16,
        augment_p=p if aug == "fixed" else 0, ada_target=None if aug != "ada" else 0.6 if target is None else target,
        ada_interval=4, ada_kimg=500 if resume_pkl is None else 100,
        total_kimg=base["kimg"], kimg_per_tick=tick, image_snapshot_ticks=snap, network_snapshot_ticks=snap,
        snapshot_minutes=snap_minutes, resume_pkl=resume_pkl, init_pkl=init_from, resume_state=None, fade_kimg=None,
        ramp_kimg=None,
        cudnn_benchmark=not nobench, allow_tf32=allow_tf32, on_collapse=on_collapse,
        **(dict(stages=stages) if stages else {}))
    parts = [short_name(name), "cond" if cond else "", f"subset{subset}" if subset else "", "mirror" if mirror else "",
             "masks" if masks else "found" if find_masks else "", f"objects{objects}" if objects > 1 else "",
             f"{cfg}{gpus}" if cfg == "auto" else cfg, f"{resolution}px", "grow" if stages else "",
             f"kimg{base['kimg']:g}", f"batch{base['batch']}", aug if aug != "ada" else "",
             f"p{p:g}" if p is not None else "", gan_loss if gan_loss != "logistic" else "",
             f"shift{_ramp_name(shift)}", f"seed{seed}", "initfrom" if init_from else "", _resume_name(resume)]
    return "-".join(part for part in parts if part), config


def _resume_name(resume: str | None) -> str:
    """What a run folder's name says of --resume, as upstream's."""
    if resume is None or resume == "noresume":
        return resume or ""
    return f"resume{resume if resume in presets.RESUME_PKLS else 'custom'}"


def _ramp_name(values: float | list[float]) -> str:
    return "to".join(f"{value:g}" for value in (values if isinstance(values, list) else [values]))


def _scan(data: str, masks: str | None, cond: bool, subset: int | None, resolution: int | None,
           seed: int) -> tuple[str, int, int, int]:
    """Name of the data set, its pictures, how many of them are shown (with masks those that have one), resolution."""
    probe = PictureDataset(path=data, size_px=4, use_labels=cond, max_size=subset, random_seed=seed)
    shown = len(probe)
    if masks is not None:
        masked = MaskedPictures(probe, masks)
        shown = len(masked)
        for line in masked.left_out:
            print(f"WARNING: {line}", file=sys.stderr)
    native_px, has_labels = min(probe.native_size), probe.has_labels
    resolution = resolution or 1 << (native_px.bit_length() - 1)
    name, num = probe.name, len(probe)
    probe.close()
    if subset is not None and subset > num:
        raise ArgumentError(f"`subset` must be at most the {num} pictures of {data}, got {subset}")
    if cond and not has_labels:
        raise ArgumentError("`cond`=1 needs labels in dataset.json, or .cls or .json with a number under label or cls "
                            f"beside each picture, but {data} has none")
    if resolution < 8 or resolution & (resolution - 1):
        raise ArgumentError(f"`resolution` must be a power of two, at least 8, got {resolution}")
    return name, num, shown, resolution


def _divide_batch(cfg: str, resolution: int, gpus: int, grow: bool, grow_schedule: str | None,
                  batch_gpu: int | None, given: dict[str, Any]) -> tuple[dict[str, Any], int, int, list[Any]]:
    """Base settings, of a growing run those of its last stage; batch_gpu, minibatch-std group; stages, if it grows.

    `given` are options that replace the base settings.
    """
    kimg, batch, lr = given["kimg"], given["batch"], given["lr"]
    own_batch = presets.preset_options(cfg).get("batch")  # What gamma and ema are computed from, whatever --batch says.
    if isinstance(lr, list):  # A preset's: stages have one each.
        lr = lr[0]
    stages: list[Any] = []
    if grow_schedule is not None:
        stages = growing.parse_schedule(grow_schedule, resolution, lr)
        own_batch = stages[-1].batch
    elif grow:
        stages = growing.choose_stages(resolution, kimg, batch, lr)
        own_batch = own_batch or growing.paper_stage(resolution).batch
    if stages:
        given = dict(given, kimg=sum(stage.kimg for stage in stages), lr=stages[-1].lr, batch=stages[-1].batch)
    base = presets.base_settings(cfg, resolution, gpus, own_batch)
    if batch is not None:
        base["ref_gpus"] = gpus  # As upstream: a batch that is given is for the processes that there are.
    base.update({key: value for key, value in given.items() if value is not None})
    batch = base["batch"]
    if batch % gpus != 0:
        raise ArgumentError(f"`batch` must be a multiple of `gpus`, got {batch} and {gpus}")
    batch_gpu_limit = batch_gpu
    if batch_gpu is None:
        batch_gpu = max(batch // max(base["ref_gpus"], gpus), 1)
    elif stages:
        batch_gpu = min(batch_gpu, batch // gpus)
    if (batch // gpus) % batch_gpu != 0:
        raise ArgumentError(f"`batch_gpu` must divide `batch` / `gpus` = {batch // gpus}, got {batch_gpu}")
    mbstd = min(base["mbstd"], batch_gpu)
    if batch_gpu % mbstd != 0:
        raise ArgumentError(f"`batch_gpu` must be a multiple of the minibatch-std group {mbstd}, got {batch_gpu}")
    if stages:
        stages = growing.plan(stages, gpus, batch_gpu_limit, base["ref_gpus"], mbstd)
    return base, batch_gpu, mbstd, stages


def _channels(cbase: int, cmax: int, resolution: int) -> dict[str, int]:
    if cbase < resolution:
        raise ArgumentError(f"`cbase` must be at least the resolution of {resolution}, or its layers have no channel, "
                            f"got {cbase}")
    return dict(channel_base=cbase, channel_max=cmax)


def _choose_precision(device_name: str, gpus: int, precision: str, fp32: bool,
                      nhwc: bool) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Device, and the arguments of networks and blocks that say where half precision begins."""
    if fp32 and precision not in ("auto", "fp32"):
        raise ArgumentError(f"`fp32`=1 contradicts `precision`={precision}")
    device_name = device.choose_device(device_name)
    precision, reason = device.choose_precision("fp32" if fp32 else precision, device_name, BASE.name)
    print(f"Device: {device_name}, precision: {precision} ({reason})", file=sys.stderr)
    try:
        device.check_count(device_name, gpus)
    except ArgumentError as err:
        raise ArgumentError(f"{err}; use fewer processes or `device`=cpu") from err
    if precision == "fp32":
        return device_name, dict(num_fp16_res=0, conv_clamp=None), {}
    block: dict[str, Any] = dict(fp16_channels_last=nhwc or precision == "bf16")
    if precision == "bf16":
        block["half_dtype"] = "bfloat16"
    return device_name, dict(num_fp16_res=4, conv_clamp=256), block


def _gan_loss_kwargs(gan_loss: str, gamma: Any, gp_weight: float, drift_weight: float) -> dict[str, Any]:
    """Class of the adversarial loss, and the arguments that only it has."""
    if gan_loss == "wgan-gp":
        return dict(class_name="layered_plugin.training.wgan_gp.WganGpLoss", gp_weight=gp_weight,
                    drift_weight=drift_weight)
    return dict(class_name="layered_plugin.training.loss.LayeredLoss", r1_gamma=gamma)


def _choose_for_size(cfg: str, num: int, kimg: float, mirror: bool | None, aug: str | None) -> tuple[bool, str]:
    """Mirroring and augmentation, said where one of them was left unset."""
    chosen = presets.choose_for_size(cfg, num, kimg, mirror, aug)
    if mirror is None or aug is None:
        print(f"Pictures: {num} (sets below {presets.FEW_PICTURES} are mirrored), mirrored too: "
              f"{'yes' if chosen[0] else 'no'}, augmentation: {chosen[1]}", file=sys.stderr)
    return chosen
