"""What a training needs before its first step: pictures, networks, what is around them, processes."""

import copy
import inspect
import warnings
from typing import Any

import dnnlib
import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch_utils import misc

from layered_plugin import errors
from layered_plugin.data.masked_pictures import MaskedPictures
from layered_plugin.device import tune_cpu
from layered_plugin.model.layers import pad_channels
from layered_plugin.model.snapshots import read_networks
from layered_plugin.training.fading import Fade
from layered_plugin.training.phases import AdaSignal


def prepare_process(device: str, seed: int, cudnn_benchmark: bool, allow_tf32: bool) -> torch.device:
    """Seed PyTorch and set its switches for the whole process; denormals are flushed on a CPU."""
    torch.manual_seed(seed)
    tune_cpu()
    torch.backends.cudnn.benchmark = cudnn_benchmark
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    return torch.device(device)


def open_training_set(training_set: Any, training_set_kwargs: dict[str, Any], rank: int) -> Any:
    """Open the pictures if they aren't yet, and decode them into memory if they fit."""
    if training_set is None:
        training_set = dnnlib.util.construct_class_by_name(**training_set_kwargs)
    in_memory = training_set.preload(verbose=rank == 0)
    if rank == 0:
        print(f"Pictures: {len(training_set)}  shape: {training_set.image_shape}  label: {training_set.label_shape}  "
              f"in memory: {'yes' if in_memory else 'no'}")
    return training_set


def with_masks(training_set: Any, masks_path: str | None, rank: int) -> Any:
    """The pictures as D sees them: if there are masks, those that have one, with it as a fourth channel."""
    if masks_path is None:
        return training_set
    with errors.raising(errors.MaskError, "`masks`", errors.MaskError):
        masked = MaskedPictures(training_set, masks_path)
        in_memory = masked.preload(verbose=rank == 0)
    if rank == 0:
        of_all = f" of {len(training_set)}" if len(masked) < len(training_set) else ""
        print(f"Masks: {masks_path}  of pictures: {len(masked)}{of_all}  in memory: {'yes' if in_memory else 'no'}")
    return masked


def draw_labels(training_set, num: int) -> torch.Tensor:
    """Labels of pictures drawn at random, [num, c_dim], on the CPU.

    PyTorch's default generator draws without labels, too: what comes next must not depend on them.
    """
    num_labels = len(training_set) if training_set.label_dim > 0 else 1
    picks = torch.randint(num_labels, [num]).tolist()
    return torch.from_numpy(np.stack([training_set.get_label(idx) for idx in picks]))


def build_networks(G_kwargs: dict[str, Any], D_kwargs: dict[str, Any], training_set: Any, resolution: int,
                   device: torch.device, D_sees_masks: bool = False) -> tuple[Any, Any, torch.nn.Module]:
    """G, D and G_ema, a copy of G, for the pictures' channels and labels; a D that sees masks has a channel more."""
    shape, channels = dict(c_dim=training_set.label_dim, img_resolution=resolution), training_set.num_channels
    G, D = (dnnlib.util.construct_class_by_name(**kwargs, **shape, img_channels=num).train().requires_grad_(False)
            .to(device) for kwargs, num in ((G_kwargs, channels), (D_kwargs, channels + D_sees_masks)))
    return G, D, copy.deepcopy(G).eval()


def summarize_networks(G_ema: Any, D: Any, batch: int, device: torch.device) -> None:
    """Print both networks layer by layer; leaves the random generators as they are."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        z = torch.randn([batch, G_ema.z_dim], device=device)
        c = torch.zeros([batch, G_ema.c_dim], device=device)
        img = misc.print_module_summary(G_ema, [z, c])
        misc.print_module_summary(D, [pad_channels(img, D.img_channels), c])


def transfer(resume_pkl: str, modules: dict[str, torch.nn.Module], say) -> None:
    """Copy what networks have under the same names (upstream's transfer learning); resume_pkl: of read_networks."""
    say(f"Transferring weights from {resume_pkl}")
    with errors.raising(errors.CheckpointError, "`resume`", errors.CheckpointError):
        source = read_networks(resume_pkl)
    for name, module in modules.items():
        if name == "D" and {getattr(source[name], "img_channels", None), module.img_channels} == {3, 4}:
            how = "with masks, and this run has none: give `masks` or `find_masks`" if module.img_channels == 3 else \
                "without masks, and this run has them: leave `masks` and `find_masks` out"
            raise errors.CheckpointError(f"`resume`: D of {resume_pkl} was trained {how}")
        _check_labels(f"{name} of {resume_pkl}", getattr(source[name], "c_dim", 0), getattr(module, "c_dim", 0))
        known = {key for key, _ in misc.named_params_and_buffers(source[name])}
        wanted = [key for key, _ in misc.named_params_and_buffers(module)]
        with errors.raising(errors.CheckpointError, f"`resume`: {name} of {resume_pkl} has other shapes than this "
                            "configuration asks for", RuntimeError, ValueError, width=200):
            misc.copy_params_and_buffers(source[name], module, require_all=False)
        say(f"{name}: {sum(key in known for key in wanted)} of {len(wanted)} tensors found there")


def _check_labels(what: str, theirs: int, ours: int) -> None:
    """Refuse networks that take labels of another length, 0 = none; CheckpointError names `resume` and `cond`."""
    if theirs != ours:
        takes, has = (f"labels of {num} classes" if num else "no labels" for num in (theirs, ours))
        remedy = "take pictures of as many classes" if theirs and ours else "add `cond`=1" if theirs else \
            "leave `cond` out"
        raise errors.CheckpointError(f"`resume`: {what} takes {takes}, and this run has {has}; {remedy}")


def build_augmentation(augment_kwargs: dict[str, Any] | None, p: float, ada_target: float | None,
                       device: torch.device) -> tuple[Any, AdaSignal | None]:
    """The augmentation pipeline at probability p, and what steers p; None where it would never do anything."""
    if augment_kwargs is None or not (p > 0 or ada_target is not None):
        return None, None
    augment_pipe = dnnlib.util.construct_class_by_name(**augment_kwargs).train().requires_grad_(False).to(device)
    augment_pipe.p.fill_(p)
    return augment_pipe, None if ada_target is None else AdaSignal()


def build_fade(G: Any, D: Any, D_kwargs: dict[str, Any], fade_kimg: list[float] | None,
               device: torch.device) -> Fade | None:
    """What fades in the highest blocks of G and D, around them; None without ``fade_kimg``."""
    if fade_kimg is None:
        return None
    smaller = dict(c_dim=G.c_dim, img_resolution=G.img_resolution // 2, img_channels=D.img_channels)
    smaller_D = dnnlib.util.construct_class_by_name(**D_kwargs, **smaller)
    return Fade(G, D, smaller_D.train().requires_grad_(False).to(device), *fade_kimg)


def build_loss(loss_kwargs: dict[str, Any], G: Any, D: torch.nn.Module, G_ema: torch.nn.Module, augment_pipe: Any,
               fade: Fade | None, num_gpus: int, device: torch.device) -> Any:
    """The loss on the networks, for one process or many; all start from rank 0's weights and buffers."""
    if num_gpus > 1:
        for tensor in [tensor for module in (G, D, G_ema) for tensor in misc.params_and_buffers(module)]:
            torch.distributed.broadcast(tensor.detach(), src=0)
    modules = dict(G_mapping=G.mapping, G_synthesis=G.synthesis if fade is None else fade.synthesis,
                   D=D if fade is None else fade.D)
    modules = {name: _distribute(module, num_gpus, device) for name, module in modules.items()}
    if D.img_channels > G.img_channels:
        loss_kwargs = dict(loss_kwargs, D_channels=D.img_channels)
    return dnnlib.util.construct_class_by_name(device=device, augment_pipe=augment_pipe, **modules, **loss_kwargs)


def _distribute(module: torch.nn.Module, num_gpus: int, device: torch.device) -> torch.nn.Module:
    if num_gpus == 1:
        return module
    # Current PyTorch has another name for leaving the buffers alone in forward.
    accepted = inspect.signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in accepted else "broadcast_buffers": False}
    # Weights of 1x1 layers have several equal layouts; the hint that they differ means nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    module.requires_grad_(True)
    ddp = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None, **options)
    module.requires_grad_(False)
    return ddp


def any_rank(flags: list[bool], num_gpus: int, device: torch.device) -> list[bool]:
    """Whether each flag is set in any process, so that all of them do the same after the same step."""
    if num_gpus == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32, device=device)
    torch.distributed.all_reduce(votes)
    return [bool(vote) for vote in votes.tolist()]
