"""Where and how a record of a benchmark came about."""

import os
import platform
import shlex
import sys
from datetime import date
from typing import Any

import torch


def provenance(module: str) -> dict[str, Any]:
    """Machine, versions, date and command line, for a record.

    Args:
        module: That is run, such as `benchmarks.scaling`.
    """
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    bf16 = [name for name in ("amx_bf16", "avx512_bf16") if known.get(name)]
    return dict(machine=platform.machine(), cpu=known.get("cpu_name"), cpu_bf16=bf16, cores=os.cpu_count(),
                cpu_capability=torch.backends.cpu.get_cpu_capability(), torch=torch.__version__,
                date=date.today().isoformat(), command=shlex.join(["python", "-m", module, *sys.argv[1:]]))
