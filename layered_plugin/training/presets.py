"""Settings of a run by name (``--cfg``), and the training options that follow from them.

Base settings are upstream's; the object categories and their eta are the paper's (section 4).
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from layered_plugin.data.pictures import FEW_PICTURES
from layered_plugin.errors import ArgumentError

# Upstream's base configurations. None = computed from resolution and batch.
UPSTREAM: dict[str, dict[str, Any]] = dict(
    auto=dict(ref_gpus=None, kimg=25000, batch=None, mbstd=None, fmaps=None, lr=None, gamma=None, ema=None,
              ramp=0.05, map_depth=2),
    stylegan2=dict(ref_gpus=8, kimg=25000, batch=32, mbstd=4, fmaps=1, lr=0.002, gamma=10, ema=10, ramp=None,
                   map_depth=8),
    paper256=dict(ref_gpus=8, kimg=25000, batch=64, mbstd=8, fmaps=0.5, lr=0.0025, gamma=1, ema=20, ramp=None,
                  map_depth=8),
    paper512=dict(ref_gpus=8, kimg=25000, batch=64, mbstd=8, fmaps=1, lr=0.0025, gamma=0.5, ema=20, ramp=None,
                  map_depth=8),
    paper1024=dict(ref_gpus=8, kimg=25000, batch=32, mbstd=4, fmaps=1, lr=0.002, gamma=2, ema=10, ramp=None,
                   map_depth=8),
    cifar=dict(ref_gpus=2, kimg=100000, batch=64, mbstd=32, fmaps=1, lr=0.0025, gamma=0.01, ema=500, ramp=0.05,
               map_depth=2),
)

_SMALL: dict[str, Any] = dict(  # Minutes on a CPU.
    resolution=32, kimg=24, batch=32, gamma=0.5, lr=0.002, cbase=512, cmax=32, w_dim=128, map_depth=4,
    mask_min=0.2, mask_size_weight=10, mask_border_weight=1, mask_center_weight=10, tick=1, snap=4)

# Ours, upstream's "auto" and values for options that the user leaves unset.
LAYERED: dict[str, dict[str, Any]] = dict(
    demo=_SMALL,
    cpu=dict(_SMALL, cbase=1024, cmax=64, kimg=32),  # Own pictures without a GPU.
    # Varied outlines: high learning rate first, freer masks last (docs/training.md, "Varied scenes").
    varied=dict(_SMALL, lr=[0.003, 0.0003], shift=[0.125, 0.06], mask_size_over="batch", mask_floor=0.4, mask_max=0.65,
                mask_variety=0.55, mask_border_weight=[1.0, 0.3], range_weight=0.1),
    # Sections 3 and 4 of the paper, setting (a) of its Table 1; the schedule is growing.SCHEDULE.
    paper=dict(grow=True, gan_loss="wgan-gp", gp_weight=10.0, drift_weight=0.001, aug="noaug", mirror=False,
               shift=0.125, crop=True, mask_size_weight=2.0, mask_binary_weight=2.0, mask_border_weight=0.0,
               mask_center_weight=0.0, bg_jitter=0.0, style_mix=0.9, mask_size_over="picture", mask_floor=0.0,
               mask_max=1.0, mask_variety=0.0, range_weight=0.0, generator="separate", mapping="separate", w_dim=512,
               map_depth=8, cbase=16384, cmax=512),
    car=dict(mask_min=0.25), chair=dict(mask_min=0.20), horse=dict(mask_min=0.15), bird=dict(mask_min=0.15),
)

# Beside --masks: what stands in for knowing how real objects are spread is off, unless given. A smaller shift, since it
# is moved scenes that come to be like the pictures, and those not moved have their objects nearer to the middle.
MASKED = dict(mask_size_weight=0.0, mask_border_weight=0.0, mask_center_weight=0.0, mask_floor=0.0, mask_max=1.0,
              mask_variety=0.0, aug="noaug", shift=0.0625)

# Of --cfg=cpu, unless an option speaks against it: masks that are found on the way, and shown from there on.
FINDS: dict[str, Any] = dict(kimg=64, find_masks=32.0, aug="noaug")

# --cfg=cpu grows from 32x32 to more, unless an option speaks against it: trained at 64x64 from the start, most masks
# get holes. Kimg of each resolution; masks are found in the first.
STAGE_KIMG = 48.0

NAMES = [*UPSTREAM, *LAYERED]

# ADA's probability rises by 1 in 500 kimg at most: in 24 kimg to 0.05, where it costs time and does next to nothing.
BRIEF, BRIEF_KIMG = ("demo", "cpu", "varied"), 100

_SOURCES = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/"

# Upstream's names for --resume, and the network pickle of each.
RESUME_PKLS: dict[str, str | None] = dict(
    noresume=None,
    ffhq256=_SOURCES + "ffhq-res256-mirror-paper256-noaug.pkl",
    ffhq512=_SOURCES + "ffhq-res512-mirror-stylegan2-noaug.pkl",
    ffhq1024=_SOURCES + "ffhq-res1024-mirror-stylegan2-noaug.pkl",
    celebahq256=_SOURCES + "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl",
    lsundog256=_SOURCES + "lsundog-res256-paper256-kimg100000-noaug.pkl",
)

AUGPIPES = dict(
    blit=dict(xflip=1, rotate90=1, xint=1),
    geom=dict(scale=1, rotate=1, aniso=1, xfrac=1),
    color=dict(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1),
    filter=dict(imgfilter=1),
    noise=dict(noise=1),
    cutout=dict(cutout=1),
)

MIN_FILTERED_PX = 22  # Mirroring by half of the 43 taps of imgfilter takes 21 pixels beside the border's.

for _name, _parts in dict(bg="blit geom", bgc="blit geom color", bgcf="blit geom color filter",
                          bgcfn="blit geom color filter noise",
                          bgcfnc="blit geom color filter noise cutout").items():
    AUGPIPES[_name] = {key: value for part in _parts.split() for key, value in AUGPIPES[part].items()}


def preset_options(cfg: str, given: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Option values that a preset gives to options left unset on the command line; given: those that were not."""
    options: dict[str, Any] = dict(style_mix=0.0) if cfg == "cifar" else LAYERED.get(cfg, {})  # cifar: upstream's.
    lengths = _stage_lengths(given) if cfg == "cpu" else []
    if lengths:
        side, batch = options["resolution"], given.get("batch") or options["batch"]
        options = dict(options, grow_schedule=",".join(f"{side << idx}:{length:.10g}:{batch}"
                                                       for idx, length in enumerate(lengths)))
    if given.get("masks") is not None:
        return {**options, **MASKED}
    if cfg != "cpu" or not may_find(given):
        return options
    return {**options, **FINDS, "find_masks": min([FINDS["find_masks"], *(round(kimg * 2 / 3, 3) for kimg in lengths)])}


def _stage_lengths(given: Mapping[str, Any]) -> list[float]:
    """Kimg of each resolution at which ``--cfg=cpu`` trains; none if it does not grow by itself."""
    resolution = given.get("resolution") or 0
    against = (given.get("resume") not in (None, "noresume") or isinstance(given.get("lr"), list) or "grow" in given
               or any(given.get(name) for name in ("grow_schedule", "init_from", "freezed", "d_lr")))
    num = max(resolution // LAYERED["cpu"]["resolution"], 1).bit_length()
    if against or num == 1:
        return []
    kimg = given.get("kimg", STAGE_KIMG * num)
    first = max(round(kimg / num, 3), 0.001)
    return [*[first] * (num - 1), max(round(kimg - first * (num - 1), 3), 0.001)]


def may_find(given: Mapping[str, Any]) -> bool:
    """Whether ``FINDS`` goes with these options: a new run from nothing, of one resolution, that is long enough."""
    return (given.get("kimg", math.inf) >= 1.5 * FINDS["find_masks"] and given.get("find_masks") != 0
            and given.get("aug", "noaug") == "noaug" and given.get("resume") in (None, "noresume")
            and not any(given.get(name) for name in ("init_from", "subset", "grow", "grow_schedule", "augpipe"))
            and given.get("p") is None and given.get("target") is None)


def when_found(kimg: float, given: Collection[str]) -> dict[str, Any]:
    """What ``legs.legs_of`` has to know of masks that are found after so many kimg; given: options that stay theirs."""
    of_loss = MASKED.keys() - {"aug"} - set(given)
    return dict(kimg=kimg, loss_kwargs={name: MASKED[name] for name in sorted(of_loss)})


def choose_for_size(cfg: str, num: int, kimg: float, mirror: bool | None, aug: str | None) -> tuple[bool, str]:
    """``--mirror`` and ``--aug`` where they were left unset: what a discriminator needs that would know a small set.

    Fewer than ``FEW_PICTURES`` are mirrored too. Augmentation is adaptive as upstream's; trainings of ``BRIEF``
    have it only for a small set, and from ``BRIEF_KIMG`` on.

    Args:
        cfg: Name out of ``NAMES``.
        num: Pictures of the data set.
        kimg: Length of the training.
        mirror, aug: What was given, by the user or a preset; None = unset.
    """
    few = num < FEW_PICTURES
    if aug is None:
        aug = "ada" if cfg not in BRIEF or (few and kimg >= BRIEF_KIMG) else "noaug"
    return few if mirror is None else mirror, aug


def base_settings(cfg: str, resolution: int, gpus: int, batch: int | None) -> dict[str, Any]:
    """Settings of upstream's base configuration behind a preset, all computed.

    Args:
        cfg: Name out of ``NAMES``.
        resolution: Of the networks, in pixels.
        gpus: Number of processes.
        batch: That of a preset or schedule of ours, from which ``auto`` then computes gamma and ema; None = upstream's.

    Returns:
        ref_gpus, kimg, batch, mbstd, fmaps, lr, gamma, ema, ramp, map_depth. ``auto`` follows upstream's heuristic;
        a batch that the user gives changes none of them, as upstream has it.
    """
    name = "auto" if cfg in LAYERED else cfg
    settings = dict(UPSTREAM[name])
    if batch is not None:
        settings["batch"] = batch
    if name == "auto":
        settings["ref_gpus"] = gpus
        if settings["batch"] is None:
            settings["batch"] = max(min(gpus * min(4096 // resolution, 32), 64), gpus)
        settings["mbstd"] = min(settings["batch"] // gpus, 4)
        settings["fmaps"] = 1 if resolution >= 512 else 0.5
        settings["lr"] = 0.002 if resolution >= 1024 else 0.0025
        settings["gamma"] = 0.0002 * resolution**2 / settings["batch"]
        settings["ema"] = settings["batch"] * 10 / 32
    return settings


def check_augmentation(aug: str, p: float | None, target: float | None, augpipe: str | None) -> None:
    """Refuse details of an augmentation that it has not (ArgumentError)."""
    if p is not None and aug != "fixed":
        raise ArgumentError("`p` can only be given with `aug`=fixed")
    if aug == "fixed" and p is None:
        raise ArgumentError("`aug`=fixed needs `p`")
    if aug == "noaug" and augpipe is not None:
        raise ArgumentError("`augpipe` cannot be given with `aug`=noaug")
    if aug != "ada" and target is not None:
        raise ArgumentError("`target` can only be given with `aug`=ada")


def check_filters(augpipe: str | None, side: int, grows: bool) -> None:
    """Refuse filters where the first stage, of resolution `side`, is too small for them (ArgumentError)."""
    if augpipe is not None and "imgfilter" in AUGPIPES[augpipe] and side < MIN_FILTERED_PX:
        raise ArgumentError(f"`augpipe`={augpipe} filters pictures of at least {MIN_FILTERED_PX}x"
                            f"{MIN_FILTERED_PX}, but the run is at {side}x{side}{' first' if grows else ''}; "
                            f"use `augpipe`=bgc{', or begin at 32x32 with `grow_schedule`' if grows else ''}")
