"""The compiled kernels behind bias_act and upfirdn2d: where they come from and which tensors they take.

Kernels are plain C functions that get addresses and sizes, so neither building nor loading them needs PyTorch."""

import ctypes
import functools
import glob
import os
import platform
import struct
import sys

import torch
from torch_utils import custom_ops, native

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_HEADERS = ("portable.h", "bias_act.h", "upfirdn2d.h", "upfirdn2d_taps.h", "parallel.h", "packs.h")
_SOURCES = {"cpu": ("bias_act_cpu.cpp", "upfirdn2d_cpu.cpp"), "cuda": ("bias_act.cu", "upfirdn2d.cu")}
_NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
# Traps and errno of mathematical functions keep loops from being vectorised; NaN and infinity stay what they are.
_CFLAGS = ["-O3", "-std=c++17", _NATIVE, "-fno-math-errno", "-fno-trapping-math"]
_OPENMP = ["-fopenmp"] if sys.platform == "linux" else []
# PyTorch's own OpenMP library where it brings one: threads of a second one would fight with it for the cores.
_OPENMP_LIBRARY = glob.glob(os.path.join(os.path.dirname(torch.__file__), "lib", "libgomp*.so*"))[:1] or _OPENMP

FUSED_SUMS = ("cpu",)  # Devices whose backward kernel takes the sums for scale, noise and bias along.

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # As in portable.h
_SERIAL_ELEMENTS = 32768  # Below this, waking threads costs more than they save.

_BIAS_ACT = struct.Struct("@10P3q2i3d")  # As BiasAct in bias_act.h
_UPFIRDN2D = struct.Struct("@3P2q2q4i2q4i2id")  # As Resampling in upfirdn2d.h


def supports(x: torch.Tensor) -> bool:
    """Whether there is a kernel for this tensor; builds the kernels of its device if that was not done yet."""
    kind, dtype = x.device.type, x.dtype
    if kind not in _SOURCES or dtype not in _DTYPES or (kind == "cpu" and dtype == torch.float16) or x.numel() == 0:
        return False
    if custom_ops.reference_ops_active() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return _library(kind) is not None


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype in which kernels calculate for x, and which they want of scales, noise and biases."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def bias_act_forward(x: torch.Tensor, act: int, *fields: float) -> None:
    """Run the forward kernel; fields are those of BiasAct in bias_act.h."""
    _run(x, "bias_act_forward", _BIAS_ACT.pack(*fields), _DTYPES[x.dtype], act)


def bias_act_backward(x: torch.Tensor, act: int, sums: int, *fields: float) -> None:
    """Run the backward kernel; sums is a value of Sums in bias_act.h, on CUDA 0."""
    _run(x, "bias_act_backward", _BIAS_ACT.pack(*fields), _DTYPES[x.dtype], act, sums)


def upfirdn2d(x: torch.Tensor, out: torch.Tensor, *fields: float) -> None:
    """Run the resampling kernel; fields are those of Resampling in upfirdn2d.h."""
    larger = x if x.numel() > out.numel() else out
    _run(larger, "upfirdn2d", _UPFIRDN2D.pack(*fields), _DTYPES[x.dtype])


def address(tensor: torch.Tensor | None) -> int:
    """Where a tensor lies, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def _run(work: torch.Tensor, name: str, *args: bytes | int) -> None:
    """Call a kernel on the device of the tensor, with as many threads as it is worth."""
    if work.device.type == "cpu":
        threads = 1 if work.numel() < _SERIAL_ELEMENTS else torch.get_num_threads()
        getattr(_library("cpu"), name)(*args, threads)
        return
    with torch.cuda.device(work.device):
        error = getattr(_library("cuda"), name)(*args, torch.cuda.current_stream().cuda_stream)
    if error:
        raise RuntimeError(f"CUDA kernel {name} was not started: CUDA error {error}")


@functools.cache
def _library(kind: str) -> ctypes.CDLL | None:
    """The kernels for a kind of device, built on the first call; None if that failed."""
    paths = [os.path.join(_FOLDER, name) for name in (*_SOURCES[kind], *_HEADERS)]
    if kind == "cuda":
        number = "{}{}".format(*torch.cuda.get_device_capability())
        flags = ["-O3", "-std=c++17", f"-gencode=arch=compute_{number},code=[sm_{number},compute_{number}]"]
        library = native.get_library(f"stylegan2_ops_cuda{number}", paths, extra_cuda_cflags=flags)
    else:
        library = native.get_library(
            "stylegan2_ops_cpu", paths, extra_cflags=_CFLAGS + _OPENMP, extra_ldflags=_OPENMP_LIBRARY
        )
    if library is None:
        return None
    last = ctypes.c_void_p if kind == "cuda" else ctypes.c_int  # A stream, or a number of threads.
    library.bias_act_forward.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, last]
    library.bias_act_backward.argtypes = [ctypes.c_char_p, *[ctypes.c_int] * 3, last]
    library.upfirdn2d.argtypes = [ctypes.c_char_p, ctypes.c_int, last]
    return library
