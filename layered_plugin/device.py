"""Which device and precision a run gets, and the settings of a process that computes on the CPU.

``auto`` never picks a slower path silently: the choice is printed with its reason.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from layered_plugin.errors import ArgumentError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # Parameters of glibc's mallopt.

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_device(name: str) -> str:
    """Resolve the name of a device: auto, cpu, cuda or mps; ArgumentError for another, or if it is not there."""
    available = dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available(), cpu=True)
    if name == "auto":
        return next(kind for kind, there in available.items() if there)
    if name not in available:
        raise ArgumentError(f"`device` must be auto, cpu, cuda or mps, got {name!r}; CUDA_VISIBLE_DEVICES in the "
                            "environment chooses among several GPUs")
    if not available[name]:
        raise ArgumentError(f"`device`={name}: PyTorch {torch.__version__} sees no such device here; use `device`=cpu")
    return name


def use_own_gpu(device: str) -> str:
    """Under torchrun, make the CUDA device of this process's LOCAL_RANK what `cuda` means; gives the name back."""
    if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


def check_count(kind: str, processes: int) -> None:
    """See that there are devices of a kind for so many processes, under torchrun for those on this machine.

    Each needs a CUDA device of its own, others are shared. ArgumentError if there are too few.
    """
    needed = int(os.environ.get("LOCAL_WORLD_SIZE", processes)) if kind == "cuda" else 1
    seen = dict(cuda=torch.cuda.device_count(), mps=int(torch.backends.mps.is_available()), cpu=1)[kind]
    if seen < needed:
        raise ArgumentError(f"`gpus`={processes} needs {needed} {kind} device{'s' if needed > 1 else ''}, but PyTorch "
                            f"{torch.__version__} sees {seen} here")


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX or AVX-512 BF16)."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def must_fp32(net: torch.nn.Module) -> bool:
    """Whether a network of the base has to compute in float32 on its device, even if trained in half precision.

    On a CPU only bfloat16 is fast, and that only with hardware for it. Training on a GPU makes float16 blocks.
    """
    half = {block.half_dtype for block in net.modules() if hasattr(block, "half_dtype")}  # Upstream: none.
    on_cpu = next(net.parameters()).device.type == "cpu"
    return on_cpu and not (has_fast_bf16() and half == {"bfloat16"})


def fast_half(device: torch.device | str, enabled: bool = True) -> contextlib.AbstractContextManager[Any]:
    """Context that computes convolutions in bfloat16 on a CPU with hardware for it, and changes nothing elsewhere."""
    if not (enabled and torch.device(device).type == "cpu" and has_fast_bf16()):
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


@contextlib.contextmanager
def seeded_cpu(seed: int) -> Iterator[None]:
    """Context in which PyTorch's default generator of the CPU begins at a seed; afterwards it is as it was.

    Those of other devices are left alone, which `torch.manual_seed` would seed as well.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def choose_precision(name: str, device: str, base_name: str) -> tuple[str, str]:
    """Resolve the name of a precision.

    Args:
        name: One of ``PRECISIONS``.
        device: cpu, cuda or mps.
        base_name: "bundled" or "official".

    Returns:
        fp32, bf16 or fp16, and the reason in words.

    Raises:
        ArgumentError: The precision is not to be had on this device or base.
    """
    if name == "bf16" and (device == "mps" or base_name != "bundled"):
        raise ArgumentError("`precision`=bf16 is for `device`=cpu or cuda on the bundled base; "
                            f"here the device is {device} and the base {base_name}: use fp32 or fp16")
    if name == "fp16" and device != "cuda":
        raise ArgumentError(f"`precision`=fp16 needs `device`=cuda, but the device is {device}; use fp32 or bf16")
    if name != "auto":
        return name, "as asked"
    if device == "cuda":
        return "fp16", "as upstream: the four largest resolutions in half precision"
    if device == "cpu" and base_name == "bundled" and has_fast_bf16():
        return "bf16", "this CPU multiplies bfloat16 in hardware"
    return "fp32", f"no fast half precision for device {device} on the {base_name} base"


def tune_cpu() -> None:
    """Set up this process for computing on the CPU; harmless beside a GPU.

    Numbers too small for full precision count as zero: Adam's moments and averages run into them, and they are slow.
    Freed memory stays with the process where the C library can be told so (glibc): else each large tensor is mapped
    and unmapped, page by page.
    """
    for dtype in (np.float16, np.float32, np.float64):
        np.finfo(dtype)  # Kept by NumPy, which warns where its first look comes later.
    torch.set_flush_denormal(True)
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, num_bytes in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            mallopt(parameter, num_bytes)
