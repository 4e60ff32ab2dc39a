"""Where and how a record of a benchmark came about."""

import os
import platform
from typing import Any

import torch

from layered_plugin import runs


def provenance(module: str) -> dict[str, Any]:
    """Machine, versions, date and command line, for a record of a benchmark.

    Args:
        module: That is run, such as `benchmarks.scaling`.
    """
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    bf16 = [name for name in ("amx_bf16", "avx512_bf16") if known.get(name)]
    of_process = runs.provenance(f"-m {module}")
    del of_process["base"]  # Some benchmarks measure several.
    return dict(machine=platform.machine(), cpu=known.get("cpu_name"), cpu_bf16=bf16, cores=os.cpu_count(),
                cpu_capability=torch.backends.cpu.get_cpu_capability(), **of_process)
