"""Look up Python objects by their dotted names.

Configurations name classes as text ("training.networks.Generator"); these functions resolve the text.
"""

import importlib
import inspect
import os
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

# The dot is part of the prefix: a package called "npz" or "tfgan" keeps its name.
_SHORTHANDS = ((re.compile(r"^np\."), "numpy."), (re.compile(r"^tf\."), "tensorflow."))


def _splits(obj_name: str) -> Iterator[tuple[str, str]]:
    """Yield every (module name, name inside the module), longest module name first."""
    for pattern, full_name in _SHORTHANDS:
        obj_name = pattern.sub(full_name, obj_name)
    parts = obj_name.split(".")
    for count in range(len(parts), 0, -1):
        yield ".".join(parts[:count]), ".".join(parts[count:])


def _is_absent(module_name: str, error: ImportError) -> bool:
    """Tell whether an import failed because the module itself or one of its parents does not exist."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing is not None and (module_name + ".").startswith(missing + ".")


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
    import_error: ImportError | None = None
    attribute_error: AttributeError | None = None
    for module_name, local_name in _splits(obj_name):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            # A broken module explains the failure better than the shorter prefixes tried after it.
            if import_error is None and not _is_absent(module_name, error):
                import_error = error
            continue
        try:
            get_obj_from_module(module, local_name)
        except AttributeError as error:
            attribute_error = attribute_error or error
            continue
        return module, local_name
    raise import_error or attribute_error or ImportError(f"No module found for the name {obj_name!r}")


def get_obj_from_module(module: types.ModuleType, obj_name: str) -> Any:
    """Follow a dotted name inside a module; an empty name gives the module itself."""
    obj: Any = module
    for part in filter(None, obj_name.split(".")):
        obj = getattr(obj, part)
    return obj


def get_obj_by_name(name: str) -> Any:
    """Return the object with the given dotted name; errors as in `get_module_from_obj_name`."""
    return get_obj_from_module(*get_module_from_obj_name(name))


def call_func_by_name(*args: Any, func_name: str | None = None, **kwargs: Any) -> Any:
    """Call the function with the given dotted name and return its result.

    Raises:
        ValueError: If func_name is not given or does not name something callable.
    """
    func = get_obj_by_name(func_name) if func_name is not None else None
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
