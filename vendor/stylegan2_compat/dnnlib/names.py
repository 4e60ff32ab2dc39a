"""Look up Python objects by their dotted names.

Configurations name classes as text ("training.networks.Generator"); these functions resolve the text.
"""

import importlib
import inspect
import operator
import os
import sys
import types
from typing import Any

# With the dot: a package called "npz" or "tfgan" keeps its name.
_SHORTHANDS = {"np.": "numpy.", "tf.": "tensorflow."}


def _importable(parts: list[str]) -> tuple[list[types.ModuleType], ImportError | None]:
    """Import a, a.b, a.b.c, ... as far as they exist; returns them, and the error of one that exists but is broken."""
    found: list[types.ModuleType] = []
    while len(found) < len(parts):
        name = ".".join(parts[: len(found) + 1])
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            is_absent = isinstance(error, ModuleNotFoundError) and error.name == name
            return found, None if is_absent else error
    return found, None


def get_module_from_obj_name(obj_name: str) -> tuple[types.ModuleType, str]:
    """Import the module that holds a named object.

    Args:
        obj_name: Dotted name, for example "training.networks.Generator"; "np." and "tf." are expanded.

    Returns:
        The module and the name of the object inside it ("" if the name is that of a module).

    Raises:
        ValueError: If obj_name is empty.
        ImportError: If a module on the way exists but fails to import, or if no module matches at all.
        AttributeError: If a module was found that lacks the object.
    """
    if not isinstance(obj_name, str) or not obj_name:
        raise ValueError(f"Expected argument `obj_name` to be a dotted name, but got {obj_name!r}")
    prefix = obj_name[:3]
    parts = (_SHORTHANDS.get(prefix, prefix) + obj_name[3:]).split(".")
    modules, error = _importable(parts)
    failure: Exception | None = error  # A broken module explains more than what its parents lack.
    for depth in range(len(modules), 0, -1):
        local_name = ".".join(parts[depth:])
        try:
            get_obj_from_module(modules[depth - 1], local_name)
        except AttributeError as missing:
            failure = failure or missing
        else:
            return modules[depth - 1], local_name
    raise failure or ImportError(f"No module found for the name {obj_name!r}")


def get_obj_from_module(module: types.ModuleType, obj_name: str) -> Any:
    """Follow a dotted name inside a module; an empty name gives the module itself."""
    return operator.attrgetter(obj_name)(module) if obj_name else module


def get_obj_by_name(name: str) -> Any:
    """Return the object with the given dotted name; errors as in `get_module_from_obj_name`."""
    return get_obj_from_module(*get_module_from_obj_name(name))


def call_func_by_name(*args: Any, func_name: str | None = None, **kwargs: Any) -> Any:
    """Call the function with the given dotted name and return its result.

    Raises:
        ValueError: If func_name is not given or does not name something callable.
    """
    func = None if func_name is None else get_obj_by_name(func_name)
    if not callable(func):
        raise ValueError(f"Expected argument `func_name` to name a callable, but got {func_name!r}")
    return func(*args, **kwargs)


def construct_class_by_name(*args: Any, class_name: str | None = None, **kwargs: Any) -> Any:
    """Construct an object of the class with the given dotted name.

    Raises:
        ValueError: If class_name is not given or does not name something callable.
    """
    if class_name is None:
        raise ValueError("Expected argument `class_name` to be a dotted name, but got None")
    return call_func_by_name(*args, func_name=class_name, **kwargs)


def get_module_dir_by_obj_name(obj_name: str) -> str:
    """Return the directory of the file that defines the module of a named object."""
    module, _local_name = get_module_from_obj_name(obj_name)
    return os.path.dirname(inspect.getfile(module))


def is_top_level_function(obj: Any) -> bool:
    """Tell whether obj is callable and bound to its own name in its module."""
    name, module = getattr(obj, "__name__", None), getattr(obj, "__module__", None)
    return callable(obj) and module in sys.modules and name in vars(sys.modules[module])


def get_top_level_function_name(obj: Any) -> str:
    """Return the dotted name of a top-level function.

    Raises:
        ValueError: If obj is not a top-level function.
    """
    if not is_top_level_function(obj):
        raise ValueError(f"Expected argument `obj` to be a top-level function, but got {obj!r}")
    module = obj.__module__
    if module == "__main__":
        # A script is importable under its file name, not as "__main__".
        script = getattr(sys.modules[module], "__file__", None) or "__main__"
        module = os.path.splitext(os.path.basename(script))[0]
    return f"{module}.{obj.__name__}"
