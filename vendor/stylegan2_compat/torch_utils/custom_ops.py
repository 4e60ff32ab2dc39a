"""Compile C++ and CUDA extensions when they are first needed, and switch compiled operations off for a while.

An extension is built once per machine and version of its sources, in a folder of its own.
"""

import contextlib
import glob
import hashlib
import os
import shutil
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

verbosity = "brief"  # Messages while building: "none", "brief" (one line per plugin) or "full"

_cached_plugins: dict[str, types.ModuleType] = {}
_reference_depth = 0
_MSVC_PATTERN = "C:/Program Files*/Microsoft Visual Studio/*/*/VC/Tools/MSVC/*/bin/Hostx64/x64"


def get_plugin(module_name: str, sources: Sequence[str], **build_kwargs: Any) -> types.ModuleType:
    """Compile an extension, or take it from an earlier build, and import it.

    The build goes to a folder of PyTorch's extension directory that is named by the arguments and the contents of all
    files beside the sources, headers included. Of several processes one builds and the others wait.

    Args:
        module_name: Name under which the extension was written to be imported.
        sources: Paths of the source files.
        **build_kwargs: Passed on to torch.utils.cpp_extension.load.

    Returns:
        The imported extension; the same object at each call in a process.

    Raises:
        ValueError: If sources is empty or `verbosity` is unknown.
        RuntimeError: If no compiler is found or the compilation fails; nothing is hidden.
        OSError: If a source cannot be read or the build directory cannot be written.
    """
    if module_name not in _cached_plugins:
        if verbosity not in ("none", "brief", "full"):
            raise ValueError(f"Expected `custom_ops.verbosity` to be none, brief or full, but got {verbosity!r}")
        if not sources:
            raise ValueError(f"Expected argument `sources` to name the files of {module_name}, but got {sources!r}")
        with _announced(module_name):
            module = _built(module_name, [Path(source).resolve() for source in sources], build_kwargs)
        # Code that imports the extension by name must find this very object; not every PyTorch leaves it there.
        sys.modules[module_name] = _cached_plugins[module_name] = module
    return _cached_plugins[module_name]


def _built(module_name: str, sources: list[Path], build_kwargs: dict[str, Any]) -> types.ModuleType:
    from filelock import FileLock
    from torch.utils import cpp_extension

    _require_msvc()
    folder = _folder_for(module_name, sources, build_kwargs)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"build_directory": str(folder), "verbose": verbosity == "full", **build_kwargs}
    with FileLock(folder / "building"):
        return cpp_extension.load(name=module_name, sources=[str(source) for source in sources], **settings)


def _folder_for(module_name: str, sources: list[Path], build_kwargs: dict[str, Any]) -> Path:
    from torch.utils import cpp_extension

    digest = hashlib.sha256(repr((sources, build_kwargs)).encode())
    for beside in sorted({path for source in sources for path in source.parent.iterdir() if path.is_file()}):
        digest.update(beside.read_bytes())
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    return Path(root) / f"{module_name}-{digest.hexdigest()[:16]}"


@contextlib.contextmanager
def _announced(module_name: str) -> Iterator[None]:
    """Say on standard error, where it disturbs no result, that a build is going on and how it ends."""
    tell = print if verbosity != "none" else lambda *_text, **_how: None
    tell(f"Building extension {module_name} ... ", end="", file=sys.stderr, flush=True)
    outcome = "Failed!"
    try:
        yield
        outcome = "Done."
    finally:
        tell(outcome, file=sys.stderr, flush=True)


@contextlib.contextmanager
def reference_ops() -> Iterator[None]:
    """Run the reference operations inside the block, whatever `impl` says: for comparisons in tests and benchmarks."""
    global _reference_depth
    _reference_depth += 1
    try:
        yield
    finally:
        _reference_depth -= 1


def reference_ops_active() -> bool:
    """Whether a block of reference_ops() is open."""
    return _reference_depth > 0


def _require_msvc() -> None:
    """On Windows, put the newest Visual C++ compiler on the path unless one is there."""
    if os.name != "nt" or shutil.which("cl.exe") is not None:
        return
    found = sorted(glob.glob(_MSVC_PATTERN))
    if not found:
        raise RuntimeError(f"No Visual C++ compiler: cl.exe is neither on the PATH nor below {_MSVC_PATTERN}")
    os.environ["PATH"] += os.pathsep + found[-1]
