"""Step ``card``: what is there, our CUDA operations built from nothing, and what the card can do."""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import torch
from torch_utils.ops import compiled

from benchmarks.gpu.step_process import Context, run_cases, seconds_per_call

DTYPES = dict(bf16=torch.bfloat16, fp16=torch.float16, tf32=torch.float32, fp32=torch.float32)


def main(context: Context) -> int:
    """Run the step."""
    cases: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("machine", machine), ("build", partial(build, context.device)), ("bandwidth", partial(bandwidth, context)),
    ]
    cases += [(f"matrix product {name}", partial(product, context, name)) for name in DTYPES]
    return run_cases(context, cases, seconds=2)


def machine() -> dict[str, Any]:
    """Versions, and the card if there is one."""
    found: dict[str, Any] = dict(
        date=date.today().isoformat(), python=sys.version.split()[0], torch=torch.__version__,
        cuda=torch.version.cuda, cores=os.cpu_count(), processor=platform.machine(),
        nvcc=_last_line("nvcc", "--version"), compiler=_first_line("c++", "--version"),
        driver=_first_line("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"))
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found.update(card=card.name, capability=f"{card.major}.{card.minor}", memory_gib=card.total_memory / 2**30,
                     multiprocessors=card.multi_processor_count, cudnn=torch.backends.cudnn.version())
    return found


def build(device: str) -> dict[str, Any]:
    """Seconds until the operations of the device are built and have run once."""
    start = time.perf_counter()
    if not compiled.supports(torch.zeros(1, device=device)):
        raise RuntimeError("the compiled operations could not be built; the step's output says why")
    return dict(seconds=time.perf_counter() - start)


def bandwidth(context: Context) -> dict[str, Any]:
    """A large copy on the device: bytes read and written in a second."""
    source = torch.ones(2**20 if context.quick else 2**30, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    seconds = seconds_per_call(lambda: target.copy_(source), context.device)
    return dict(gb_per_s=2 * source.numel() / seconds / 1e9)


def product(context: Context, name: str) -> dict[str, Any]:
    """A large matrix product of random numbers, in 10^12 operations a second."""
    size = 256 if context.quick else 8192
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    a, b = (torch.randn(size, size, device=context.device).to(DTYPES[name]) for _ in range(2))
    return dict(tflops=2 * size**3 / seconds_per_call(lambda: a @ b, context.device) / 1e12)


def _first_line(*command: str) -> str | None:
    return next(iter(_lines(*command)), None)


def _last_line(*command: str) -> str | None:
    return next(reversed(_lines(*command)), None)


def _lines(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        return []
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()
