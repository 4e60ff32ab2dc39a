"""Options of ``train_layered.py`` that can't go together."""

from typing import Any

from layered_plugin.base import BASE
from layered_plugin.errors import ArgumentError


def check_together(opts: dict[str, Any], given: set[str]) -> None:
    """Refuse options that say nothing beside others that were given, by an ArgumentError; values of a preset may."""
    gan_loss = opts["gan_loss"]
    if "fid_weights" in given and (opts["metrics"] == "none" or BASE.name == "official"):
        raise ArgumentError("`fid_weights` is for `metrics` on the bundled base")
    if gan_loss == "wgan-gp" and "gamma" in given:
        raise ArgumentError("`gamma` is R1's weight, which `gan_loss`=wgan-gp has not; see `gp_weight`")
    for name in ("gp_weight", "drift_weight"):
        if gan_loss != "wgan-gp" and name in given:
            raise ArgumentError(f"`{name}` needs `gan_loss`=wgan-gp")
    if opts["masks"] is not None and opts["aug"] != "noaug":
        raise ArgumentError(f"`masks` go with `aug`=noaug alone, got {opts['aug']}")
    if opts["masks"] is not None and opts["init_from"] not in (None, "noresume"):
        raise ArgumentError("`masks` need a discriminator that sees them, and that of `init_from` does not")
    if opts["find_masks"] > 0:
        _check_finding(opts)
    is_off = opts["find_masks"] > 0 and "mask_size_weight" not in given
    beside = " beside `masks`" if opts["masks"] is not None else " once masks are found, `find_masks`" * is_off
    for name, off in (("mask_floor", 0), ("mask_max", 1)):
        if name in given and opts[name] != off and (opts["mask_size_weight"] == 0 or is_off):
            raise ArgumentError(f"`{name}` is weighted by `mask_size_weight`, which is 0{beside}; give that as well")
    if opts["mask_min"] > opts["mask_max"] and opts["mask_size_weight"] > 0:
        raise ArgumentError(f"`mask_min`={opts['mask_min']:g} must be at most `mask_max`={opts['mask_max']:g}")
    for name in ("kimg", "batch"):
        if opts["grow_schedule"] is not None and {"grow_schedule", name} <= given:
            raise ArgumentError(f"`{name}` stands in `grow_schedule`; leave it out, or use `grow` without one")
    if not opts["grow"] and opts["grow_schedule"] is None:
        return
    if ("lr" in given and isinstance(opts["lr"], list)) or opts["d_lr"] is not None:
        raise ArgumentError("`lr`=A:B and `d_lr` can't be given with `grow`; `grow_schedule` has the learning "
                            "rate of each stage")
    if opts["freezed"]:
        raise ArgumentError("`freezed` is for transfer learning; a growing discriminator has no fixed first layers")


def _check_finding(opts: dict[str, Any]) -> None:
    """Refuse what masks that are to be found can't go with (ArgumentError)."""
    if opts["masks"] is not None:
        raise ArgumentError("`find_masks` finds what `masks` has; give one of them")
    if opts["init_from"] not in (None, "noresume"):
        raise ArgumentError("`find_masks` needs a discriminator that sees masks, and that of `init_from` does not")
    if opts["aug"] not in (None, "noaug"):
        raise ArgumentError(f"`find_masks` goes with `aug`=noaug alone, got {opts['aug']}")
    for name in ("p", "target", "augpipe"):
        if opts[name] is not None:
            raise ArgumentError(f"`find_masks` goes without augmentation, so `{name}` can't be given")
    if opts["subset"] is not None:
        raise ArgumentError("`find_masks` learns from all pictures of `data`, so it can't be given with `subset`")


def check_rounds(pl_weight: float, mask_variety: float | list[float], batches: list[int]) -> None:
    """Refuse terms that need two pictures, where a process and round has a single one (ArgumentError)."""
    if mask_variety != 0 and min(batches) < 2:
        raise ArgumentError(f"`mask_variety` compares pictures and needs `batch_gpu` of at least 2, got {min(batches)}")
    if pl_weight > 0 and min(batches) < 2:
        raise ArgumentError("`pl_weight` needs `batch_gpu` of at least 2: path length takes half of the pictures of a "
                            f"process and round, got {min(batches)}")
