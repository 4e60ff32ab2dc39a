"""What a training needs before its first step: pictures, networks, what is around them, processes."""

import copy
import inspect
import pickle
import warnings
from typing import Any

import dnnlib
import legacy
import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch_utils import misc

from layered_plugin import errors
from layered_plugin.device import tune_cpu
from layered_plugin.training.fading import Fade


def say_nothing(*_args, **_kwargs) -> None:
    """What ranks above 0 print."""


def choose_backends(cudnn_benchmark: bool, allow_tf32: bool) -> None:
    """Set PyTorch's switches for the whole process; denormals are flushed on a CPU."""
    tune_cpu()
    torch.backends.cudnn.benchmark = cudnn_benchmark
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32


def open_training_set(training_set: Any, training_set_kwargs: dict[str, Any], say) -> tuple[Any, bool]:
    """Open the pictures, and decode them into memory if they fit.

    Returns:
        The training set, and whether all its pictures are in memory.
    """
    if training_set is None:
        training_set = dnnlib.util.construct_class_by_name(**training_set_kwargs)
    in_memory = training_set.preload(verbose=say is print)
    say(f"Pictures: {len(training_set)}  shape: {training_set.image_shape}  label: {training_set.label_shape}  "
        f"in memory: {'yes' if in_memory else 'no'}")
    return training_set, in_memory


def draw_labels(training_set, num: int) -> torch.Tensor:
    """Labels of pictures drawn at random, [num, c_dim], on the CPU.

    PyTorch's default generator draws without labels, too: what comes next must not depend on them.
    """
    num_labels = len(training_set) if training_set.label_dim > 0 else 1
    picks = torch.randint(num_labels, [num]).tolist()
    return torch.from_numpy(np.stack([training_set.get_label(idx) for idx in picks]))


def build_networks(G_kwargs: dict[str, Any], D_kwargs: dict[str, Any], shape: dict[str, Any],
                   device: torch.device) -> tuple[Any, torch.nn.Module, torch.nn.Module]:
    """G, D and G_ema, a copy of G, on the device.

    Args:
        G_kwargs: class_name and arguments of the generator.
        D_kwargs: The same of the discriminator.
        shape: c_dim, img_resolution and img_channels, of both.
        device: Where they are to be.
    """
    G, D = (dnnlib.util.construct_class_by_name(**kwargs, **shape).train().requires_grad_(False).to(device)
            for kwargs in (G_kwargs, D_kwargs))
    return G, D, copy.deepcopy(G).eval()


def summarize_networks(G_ema: Any, D: torch.nn.Module, batch: int, device: torch.device) -> None:
    """Print both networks layer by layer; leaves the random generators as they are."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        z = torch.randn([batch, G_ema.z_dim], device=device)
        c = torch.zeros([batch, G_ema.c_dim], device=device)
        img = misc.print_module_summary(G_ema, [z, c])
        misc.print_module_summary(D, [img, c])


def transfer(resume_pkl: str, modules: dict[str, torch.nn.Module], say) -> None:
    """Copy what a network pickle has under the same names (upstream's transfer learning)."""
    say(f"Transferring weights from {resume_pkl} (unpickling runs its code)")
    try:
        with dnnlib.util.open_url(resume_pkl) as file:
            source = legacy.load_network_pkl(file)
    except (OSError, EOFError, ImportError, AttributeError, KeyError, ValueError, AssertionError,
            pickle.UnpicklingError) as err:
        raise errors.CheckpointError(f"`resume`: {resume_pkl} is no readable network pickle: {err!r}") from err
    for name, module in modules.items():
        known = {key for key, _ in misc.named_params_and_buffers(source[name])}
        wanted = [key for key, _ in misc.named_params_and_buffers(module)]
        try:
            misc.copy_params_and_buffers(source[name], module, require_all=False)
        except (RuntimeError, ValueError) as err:
            raise errors.CheckpointError(f"`resume`: {name} of {resume_pkl} has other shapes than this "
                                             f"configuration asks for: {err}") from err
        say(f"{name}: {sum(key in known for key in wanted)} of {len(wanted)} tensors found in the pickle")


def build_augmentation(augment_kwargs: dict[str, Any] | None, p: float, adaptive: bool, device: torch.device) -> Any:
    """The augmentation pipeline at probability p; None where it would never do anything."""
    if augment_kwargs is None or not (p > 0 or adaptive):
        return None
    augment_pipe = dnnlib.util.construct_class_by_name(**augment_kwargs).train().requires_grad_(False).to(device)
    augment_pipe.p.fill_(p)
    return augment_pipe


def build_fade(G: Any, D: torch.nn.Module, D_kwargs: dict[str, Any], shape: dict[str, Any],
               fade_kimg: list[float] | None, device: torch.device) -> Fade | None:
    """What fades in the highest blocks of G and D, around them; None without ``fade_kimg``."""
    if fade_kimg is None:
        return None
    smaller = dict(shape, img_resolution=shape["img_resolution"] // 2)
    smaller_D = dnnlib.util.construct_class_by_name(**D_kwargs, **smaller)
    return Fade(G, D, smaller_D.train().requires_grad_(False).to(device), *fade_kimg)


def distribute(G: Any, D: torch.nn.Module, G_ema: torch.nn.Module, fade: Fade | None, num_gpus: int,
               device: torch.device) -> dict[str, Any]:
    """The modules that the loss takes, for one process or many; all start from rank 0's weights and buffers."""
    if num_gpus > 1:
        for tensor in [tensor for module in (G, D, G_ema) for tensor in misc.params_and_buffers(module)]:
            torch.distributed.broadcast(tensor.detach(), src=0)
    modules = dict(G_mapping=G.mapping, G_synthesis=G.synthesis if fade is None else fade.synthesis,
                   D=D if fade is None else fade.D)
    return {name: _distribute(module, num_gpus, device) for name, module in modules.items()}


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
