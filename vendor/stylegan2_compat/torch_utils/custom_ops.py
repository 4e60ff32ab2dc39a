"""Compile C++ and CUDA extensions when they are first needed, once per machine.

Works around PyTorch versions that do not leave a loaded extension in `sys.modules`.
"""

import contextlib
import glob
import hashlib
import os
import shutil
import sys
import time
import types
import uuid
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

verbosity = "brief"  # Messages while building: "none", "brief" (one line per plugin) or "full"

_cached_plugins: dict[str, types.ModuleType] = {}
_reference_depth = 0
_LOCK_WARNING_S = 300.0
_LOCK_POLL_S = 0.1
_MSVC_PATTERN = "C:/Program Files*/Microsoft Visual Studio/*/*/VC/Tools/MSVC/*/bin/Hostx64/x64"


def get_plugin(module_name: str, sources: Sequence[str], **build_kwargs: Any) -> types.ModuleType:
    """Compile an extension, or take it from an earlier build, and import it.

    If TORCH_EXTENSIONS_DIR is set and all sources lie in one directory, the build runs on copies of all files of that
    directory, in a folder named by their contents: several versions of the sources can then share the build directory.

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
    if module_name in _cached_plugins:
        return _cached_plugins[module_name]
    if verbosity not in ("none", "brief", "full"):
        raise ValueError(f"Expected `custom_ops.verbosity` to be none, brief or full, but got {verbosity!r}")
    if not sources:
        raise ValueError(f"Expected argument `sources` to name the files of {module_name}, but got {sources!r}")

    if verbosity == "brief":
        print(f"Building extension {module_name} ... ", end="", flush=True)
    elif verbosity == "full":
        print(f"Building extension {module_name} from {', '.join(sources)}", flush=True)
    try:
        _require_msvc()
        module = _build(module_name, list(sources), build_kwargs)
    except BaseException:
        if verbosity == "brief":
            print("Failed!", flush=True)
        raise
    if verbosity != "none":
        print("Done." if verbosity == "brief" else f"Done with extension {module_name}.", flush=True)

    # Code that imports the extension by name must find this very object.
    sys.modules[module_name] = module
    _cached_plugins[module_name] = module
    return module


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


def _build(module_name: str, sources: list[str], build_kwargs: dict[str, Any]) -> types.ModuleType:
    from torch.utils import cpp_extension

    verbose = verbosity == "full"
    build_dir = build_kwargs.pop("build_directory", None) or cpp_extension._get_build_directory(module_name, verbose)
    os.makedirs(build_dir, exist_ok=True)
    with _lock(os.path.join(build_dir, f"{module_name}.lock")):
        folders = {os.path.dirname(os.path.abspath(source)) for source in sources}
        if len(folders) == 1 and os.environ.get("TORCH_EXTENSIONS_DIR"):
            build_dir = _copy_sources(folders.pop(), build_dir)
            sources = [os.path.join(build_dir, os.path.basename(source)) for source in sources]
        return cpp_extension.load(
            name=module_name, sources=sources, build_directory=build_dir, verbose=verbose, **build_kwargs
        )


@contextlib.contextmanager
def _lock(path: str) -> Iterator[None]:
    """Hold a lock file; processes that come later find the finished build and only load it."""
    from torch.utils.file_baton import FileBaton

    baton = FileBaton(path)
    warn_at = time.monotonic() + _LOCK_WARNING_S
    while not baton.try_acquire():
        if time.monotonic() > warn_at:
            # A killed process leaves its file behind, which nobody else can tell from a build that takes long.
            warnings.warn(f"Still waiting for the lock file {path}; delete it if no build is running", stacklevel=2)
            warn_at = float("inf")
        time.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        baton.release()


def _copy_sources(folder: str, build_dir: str) -> str:
    """Copy the files of a folder to `<build_dir>/<md5 of their contents>` and return that path."""
    paths = sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
    digest = hashlib.md5()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    target = os.path.join(build_dir, digest.hexdigest())
    os.makedirs(target, exist_ok=True)
    for path in paths:
        copy = os.path.join(target, os.path.basename(path))
        if not os.path.isfile(copy):
            # Moved into place: a build that is interrupted here must not leave half a file for the next one.
            temporary = f"{copy}.{uuid.uuid4().hex}"
            shutil.copyfile(path, temporary)
            os.replace(temporary, copy)
    return target


def _require_msvc() -> None:
    """On Windows, put the newest Visual C++ compiler on the path unless one is there."""
    if os.name != "nt" or shutil.which("cl.exe") is not None:
        return
    found = sorted(glob.glob(_MSVC_PATTERN))
    if not found:
        raise RuntimeError(f"No Visual C++ compiler: cl.exe is neither on the PATH nor below {_MSVC_PATTERN}")
    os.environ["PATH"] += os.pathsep + found[-1]
