"""Compile plain C functions when they are first needed, once per machine, and do without where that fails."""

import contextlib
import ctypes
import errno
import glob
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch_utils import custom_ops

libraries: dict[str, ctypes.CDLL | None] = {}  # Loaded by get_library; None where that failed.

_BUILD_REMEDY = "Remedy: install g++ (Debian: apt install g++), ninja (pip install ninja) and, for CUDA, nvcc"
_WRITE_REMEDY = "Remedy: set TORCH_EXTENSIONS_DIR to a folder that can be written and executed"


def get_library(name: str, sources: Sequence[str], **build_kwargs: Any) -> ctypes.CDLL | None:
    """Compile a library of plain C functions, or take it from an earlier build, and load it.

    The build goes to a folder of PyTorch's extension directory that is named by the contents of the files, the flags
    and the processor, so other versions and other machines on the same disk have folders of their own. A finished
    build is loaded without a compiler. Of several processes one builds and the others wait.

    Args:
        name: Name of the library.
        sources: Paths of the sources and of the headers that they include.
        **build_kwargs: extra_cflags, extra_cuda_cflags, extra_ldflags: lists of flags for compiler and linker. CUDA
            sources are built by nvcc alone, with the second of them.

    Returns:
        The library; the same object at each call in a process. None if it cannot be built here, after one warning.
    """
    if name not in libraries:
        try:
            libraries[name] = ctypes.CDLL(_built_library(name, list(sources), build_kwargs))
        except (RuntimeError, OSError, ImportError) as err:
            reason = f"{type(err).__name__}: {err}".strip().splitlines()[0]
            # The system's errors have a number; PyTorch raises OSError without one where CUDA is missing.
            remedy = _WRITE_REMEDY if getattr(err, "errno", None) else _BUILD_REMEDY
            warnings.warn(
                f"Cannot build the compiled operations ({reason}), so the slower reference operations run. {remedy}",
                stacklevel=2,
            )
            libraries[name] = None
    return libraries[name]


def _built_library(name: str, sources: list[str], build_kwargs: dict[str, Any]) -> str:
    """Path of a finished build, which is made if there is none."""
    digest = hashlib.sha256(repr((build_kwargs, platform.machine(), _processor())).encode())
    for path in sources:
        with open(path, "rb") as file:
            digest.update(file.read())
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or os.path.join(cache, "torch_extensions")
    if root.startswith("~"):
        raise OSError(errno.ENOENT, "this user has no home folder")
    folder = os.path.join(root, f"{name}-{digest.hexdigest()[:16]}")
    library = os.path.join(folder, f"{name}.so")
    if os.path.isfile(library):
        return library
    from filelock import FileLock

    os.makedirs(folder, exist_ok=True)
    with _announced(name), _quiet_torch(), FileLock(os.path.join(folder, "building")):
        from torch.utils import cpp_extension

        if shutil.which("ninja") is None:
            # pip installs it beside a Python whose folder is not always on the path.
            os.environ["PATH"] += os.pathsep + os.path.dirname(sys.executable)
        compiler = os.environ.get("CXX", "c++")
        if os.name != "nt" and shutil.which(compiler) is None:
            raise RuntimeError(f"no C++ compiler: {compiler} is not on the PATH")
        # Nothing is left to do if another process had the lock.
        if not os.path.isfile(library):
            pattern = os.path.join(glob.escape(folder), f"{name}_build*{cpp_extension.LIB_EXT}")
            for leftover in glob.glob(pattern):
                os.remove(leftover)
            files = [path for path in sources if not path.endswith(".h")]
            if files[0].endswith(".cu"):
                _run_nvcc(files, os.path.join(folder, f"{name}_build.so"), build_kwargs["extra_cuda_cflags"])
                os.replace(os.path.join(folder, f"{name}_build.so"), library)
                return library
            verbose = custom_ops.verbosity == "full"
            cpp_extension.load(
                f"{name}_build", files, build_directory=folder, verbose=verbose, is_python_module=False, **build_kwargs
            )
            # PyTorch adds a version to the name if it has built something else under it in this process.
            os.replace(glob.glob(pattern)[0], library)
    return library


def _run_nvcc(files: list[str], library: str, flags: list[str]) -> None:
    """Compile and link in one call. The CUDA runtime is linked in: no library has to be found, then or later."""
    nvcc = _find_nvcc()
    command = [nvcc, "-shared", "-o", library, *flags, *files]
    if os.name != "nt":
        command[1:1] = ["-Xcompiler", "-fPIC"]
    result = subprocess.run(command, capture_output=True, text=True)
    if custom_ops.verbosity == "full":
        print(" ".join(command), result.stdout, result.stderr, sep="\n", file=sys.stderr)
    if result.returncode != 0:
        said = [line for line in (result.stderr + result.stdout).splitlines() if "error" in line.lower()]
        raise RuntimeError(f"nvcc failed: {said[0] if said else f'code {result.returncode}'}")


def _find_nvcc() -> str:
    """Path of nvcc: that of CUDA_HOME if it is set, else on the PATH, else where CUDA usually lies."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    usual = [os.path.join(folder, "bin") for folder in (home, "/usr/local/cuda") if folder]
    found = [shutil.which("nvcc", path=path) for path in (*usual[:-1], None, usual[-1])]
    nvcc = next((path for path in found if path), None)
    if nvcc is None:
        raise RuntimeError("no CUDA compiler: nvcc is neither on the PATH nor below CUDA_HOME")
    return nvcc


@contextlib.contextmanager
def _announced(name: str) -> Iterator[None]:
    """Say on standard error, where it disturbs no result, that a build is going on."""
    if custom_ops.verbosity != "none":
        print(f"Building extension {name} (once per machine) ... ", end="", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        if custom_ops.verbosity != "none":
            print("Failed!", file=sys.stderr, flush=True)
        raise
    if custom_ops.verbosity != "none":
        print("Done.", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keep PyTorch from logging, among others, that there is no GPU; errors are raised anyway."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    before = logger.level
    logger.setLevel(logging.WARNING if custom_ops.verbosity == "full" else logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _processor() -> str:
    """What native code depends on: the instructions that this machine knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))}))
