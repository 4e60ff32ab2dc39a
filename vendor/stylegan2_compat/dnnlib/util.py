"""Small helpers under the names that the StyleGAN2-ADA interface gives them in `dnnlib.util`.

Name lookup lives in `dnnlib.names` and downloads in `dnnlib.download`; both are re-exported here.
"""

import contextlib
import fnmatch
import io
import math
import os
import pickle
import shutil
import sys
from collections.abc import Iterable
from typing import IO, Any, TextIO

import numpy as np
from dnnlib.download import is_url, make_cache_dir_path, open_url, set_cache_dir
from dnnlib.names import (
    call_func_by_name,
    construct_class_by_name,
    get_module_dir_by_obj_name,
    get_module_from_obj_name,
    get_obj_by_name,
    get_obj_from_module,
    get_top_level_function_name,
    is_top_level_function,
)

__all__ = [
    "EasyDict", "Logger", "ask_yes_no", "call_func_by_name", "construct_class_by_name", "copy_files_and_create_dirs",
    "format_time", "get_dtype_and_ctype", "get_module_dir_by_obj_name", "get_module_from_obj_name", "get_obj_by_name",
    "get_obj_from_module", "get_top_level_function_name", "is_pickleable", "is_top_level_function", "is_url",
    "list_dir_recursively_with_ignore", "make_cache_dir_path", "open_url", "set_cache_dir", "tuple_product",
]  # fmt: skip


class EasyDict(dict):
    """Dict whose items are also attributes; nested plain dicts stay plain."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]  # Not dict.__getitem__ by name, which torch.compile can't trace.
        raise AttributeError(f"{type(self).__name__} has no item {name!r}")

    __setattr__ = dict.__setitem__  # type: ignore[assignment]

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(f"{type(self).__name__} has no item {name!r}")
        del self[name]


def _open_log(file_name: str, mode: str) -> IO[str]:
    return open(file_name, mode, encoding="utf-8", errors="backslashreplace")  # Names of files may be no text.


class Logger:
    """Copy everything written to stdout and stderr to a file, from construction to `close`.

    Args:
        file_name: Log file, None = no file.
        file_mode: Mode of `open`, "w" or "a".
        should_flush: Flush after each write, so that the log is complete when the process dies.
    """

    def __init__(self, file_name: str | None = None, file_mode: str = "w", should_flush: bool = True) -> None:
        self._should_flush = should_flush
        self._cleanup = contextlib.ExitStack()
        self._sinks: list[IO[str]] = [sys.stdout]  # The file comes first: a broken pipe must not keep text from it.
        if file_name is not None:
            self._sinks.insert(0, self._cleanup.enter_context(_open_log(file_name, file_mode)))
            self._cleanup.callback(self._sinks.pop, 0)
        for stream in ("stdout", "stderr"):
            self._cleanup.callback(self._give_back, stream, getattr(sys, stream))
            setattr(sys, stream, self)

    def _give_back(self, stream: str, original: TextIO) -> None:
        """Undo the redirection unless somebody else has redirected the stream since."""
        if getattr(sys, stream) is self:
            setattr(sys, stream, original)

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def write(self, text: str | bytes) -> int:
        """Write text (or UTF-8 bytes) to the original stdout and to the file; returns the number of characters."""
        characters = text if isinstance(text, str) else text.decode("utf-8", errors="replace")
        if characters:
            for sink in self._sinks:
                sink.write(characters)
            if self._should_flush:
                self.flush()
        return len(characters)

    def flush(self) -> None:
        """Flush the file and the original stdout."""
        for sink in self._sinks:
            sink.flush()

    def isatty(self) -> bool:
        """Answer no, so that libraries do not write colours or progress bars into the log."""
        return False

    def close(self) -> None:
        """Give stdout and stderr back and close the file; a second call does nothing."""
        with self._cleanup:  # Also where there is no room on the disk for what is left.
            self.flush()


def format_time(seconds: float) -> str:
    """Write a duration in seconds as 12s, 3m 05s, 1h 02m 03s or 2d 03h 04m."""
    rest = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, rest = divmod(rest, length)
        if parts:
            parts.append(f"{amount:02d}{unit}")
        elif amount or unit == "s":
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:3])  # Of days, the seconds are of no interest.


def ask_yes_no(question: str) -> bool:
    """Ask on the terminal until the answer is yes or no."""
    while (answer := input(f"{question} (yes or no) ").strip().lower()) not in ("y", "yes", "n", "no"):
        print("Please answer yes or no.")
    return answer.startswith("y")


def tuple_product(t: tuple[float, ...]) -> float:
    """Multiply the elements of a tuple; 1 if it is empty."""
    return math.prod(t)


def get_dtype_and_ctype(type_obj: Any) -> tuple[np.dtype, Any]:
    """Return the NumPy and the ctypes type for a type or its name (for example "uint8").

    Raises:
        ValueError: If the type has no counterpart in ctypes.
    """
    try:
        dtype = np.dtype(type_obj)
        return dtype, np.ctypeslib.as_ctypes_type(dtype)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(f"Expected argument `type_obj` to be a C number type, but got {type_obj!r}") from error


def is_pickleable(obj: Any) -> bool:
    """Tell whether pickling the object works, by doing it."""
    try:
        pickle.dump(obj, io.BytesIO())
    except (pickle.PickleError, TypeError, AttributeError, RecursionError):
        return False
    return True


def list_dir_recursively_with_ignore(
    dir_path: str, ignores: list[str] | None = None, add_base_to_relative: bool = False
) -> list[tuple[str, str]]:
    """List the files below a directory as (full path, relative path).

    Args:
        dir_path: Directory to list.
        ignores: Wildcard patterns; files and directories whose base name matches one are left out.
        add_base_to_relative: Start the relative paths with the name of the directory itself.

    Raises:
        ValueError: If dir_path is not a directory.
    """
    if not os.path.isdir(dir_path):
        raise ValueError(f"Expected argument `dir_path` to be a directory, but got {dir_path!r}")

    def kept(names: Iterable[str]) -> list[str]:
        return sorted(n for n in names if not any(fnmatch.fnmatch(n, pattern) for pattern in ignores or []))

    start = os.path.dirname(os.path.abspath(dir_path)) if add_base_to_relative else os.path.abspath(dir_path)
    found = []
    for folder, folders, files in os.walk(dir_path):
        folders[:] = kept(folders)
        paths = [os.path.join(folder, name) for name in kept(files)]
        found += [(path, os.path.relpath(os.path.abspath(path), start)) for path in paths]
    return found


def copy_files_and_create_dirs(files: list[tuple[str, str]]) -> None:
    """Copy files given as (source, destination) and create the directories they need."""
    for source, destination in files:
        os.makedirs(os.path.dirname(destination) or ".", exist_ok=True)
        shutil.copyfile(source, destination)
