"""Pickles that carry the source of their classes, so that snapshots outlive changes to the code.

The format is version 6 of the StyleGAN2-ADA interface: pickles can be exchanged with the official repository.
Unpickling runs the embedded source: never load a pickle from a source you do not trust.
"""

import copy
import inspect
import pickle
import sys
import types
import uuid
from collections.abc import Callable
from typing import Any

import dnnlib
import numpy as np
import torch

_FORMAT_VERSION = 6
_persistent_types: set[type] = set()
_hooks: list[Callable[[dnnlib.EasyDict], dnnlib.EasyDict]] = []
_text_of_module: dict[types.ModuleType, str] = {}
_module_of_text: dict[str, types.ModuleType] = {}


def persistent_class(orig_class: type) -> type:
    """Return a subclass whose objects pickle together with the source of the module that defines them.

    The decorated class stores copies of its constructor arguments (`init_args`, `init_kwargs`) and refuses attributes
    that cannot be pickled when it is constructed. `copy.deepcopy` takes the same way as pickling. The text of the whole
    module is stored, and runs as a module without a package: use absolute imports, no `__file__`, and zero-argument
    `super()`. A subclass must be decorated again, or it pickles as its base.

    Args:
        orig_class: Class at the top level of a module that has a source file; a decorated class is returned unchanged.

    Raises:
        ValueError: If orig_class is not a class.
        OSError: If the source of its module is not available.
    """
    if not isinstance(orig_class, type):
        raise ValueError(f"Expected argument `orig_class` to be a class, but got {orig_class!r}")
    if is_persistent(orig_class):
        return orig_class
    home = sys.modules[orig_class.__module__]
    src = _source_of(home)

    class Decorator(orig_class):  # type: ignore[valid-type, misc]
        # Looked up on the object's type: with nested decorators the outermost source and name are stored.
        _persistent_text = src
        _persistent_name = orig_class.__name__

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._init_args = copy.deepcopy(args)
            self._init_kwargs = copy.deepcopy(kwargs)
            _require_name(home, orig_class.__name__)
            _try_pickling(self)

        @property
        def init_args(self) -> tuple[Any, ...]:
            return copy.deepcopy(self._init_args)

        @property
        def init_kwargs(self) -> dnnlib.EasyDict:
            return dnnlib.EasyDict(copy.deepcopy(self._init_kwargs))

        def __reduce__(self) -> tuple[Any, ...]:
            return _reconstruct_persistent_obj, (_describe(self),)

    Decorator.__name__ = orig_class.__name__
    Decorator.__doc__ = orig_class.__doc__
    _persistent_types.add(Decorator)
    return Decorator


def is_persistent(obj: Any) -> bool:
    """Tell whether obj is a decorated class or an object of exactly such a class; subclasses do not count."""
    return (obj if isinstance(obj, type) else type(obj)) in _persistent_types


def import_hook(hook: Callable[[dnnlib.EasyDict], dnnlib.EasyDict]) -> Callable[[dnnlib.EasyDict], dnnlib.EasyDict]:
    """Register a function that may rewrite the description of each object that is unpickled; usable as a decorator.

    Args:
        hook: Called with an EasyDict of type, version, module_src, class_name and state; must return such an EasyDict.
            Hooks run in order of registration, before the version is checked.

    Returns:
        The hook itself.

    Raises:
        ValueError: If hook cannot be called.
    """
    if not callable(hook):
        raise ValueError(f"Expected argument `hook` to be callable, but got {hook!r}")
    _hooks.append(hook)
    return hook


def _describe(obj: Any) -> dict[str, Any]:
    # Up to Python 3.10 only classes that define __getstate__ have one.
    state = obj.__getstate__() if hasattr(obj, "__getstate__") else obj.__dict__
    return {
        "type": "class",
        "version": _FORMAT_VERSION,
        "module_src": obj._persistent_text,
        "class_name": obj._persistent_name,
        "state": state,
    }


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    """Rebuild an object from its description. Pickles refer to this function by name: it cannot be renamed."""
    meta = dnnlib.EasyDict(meta)
    if isinstance(meta.state, dict):
        meta.state = dnnlib.EasyDict(meta.state)
    for hook in _hooks:
        meta = hook(meta)
        if meta is None:
            raise ValueError(f"Expected import hook {hook!r} to return the description, but got None")
    if meta.version != _FORMAT_VERSION or meta.type != "class":
        raise pickle.UnpicklingError(
            f"Expected a persistent class of version {_FORMAT_VERSION}, "
            f"but got {meta.type!r} of version {meta.version!r}"
        )

    module = _module_from_source(meta.module_src)
    if meta.class_name not in vars(module):
        raise pickle.UnpicklingError(f"The source in the pickle does not define the class {meta.class_name!r}")
    cls: Any = persistent_class(vars(module)[meta.class_name])
    obj = cls.__new__(cls)
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(meta.state)
    else:
        obj.__dict__.update(meta.state)
    return obj


def _source_of(module: types.ModuleType) -> str:
    """Return the text of a module and remember the module as the one that runs this text."""
    src = _text_of_module.get(module)
    if src is None:
        src = inspect.getsource(module)
        _text_of_module[module] = src
        _module_of_text[src] = module
    return src


def _module_from_source(src: str) -> types.ModuleType:
    """Return the module that runs the given text, executing it in a new one if it is not known."""
    module = _module_of_text.get(src)
    if module is not None:
        return module
    module = types.ModuleType(f"_imported_module_{uuid.uuid4().hex}")
    # Registered first: decorators in the text look up their own module and its source.
    sys.modules[module.__name__] = module
    _text_of_module[module] = src
    _module_of_text[src] = module
    try:
        exec(src, vars(module))
    except BaseException:
        # A half-executed module must not satisfy the next attempt.
        del sys.modules[module.__name__], _text_of_module[module], _module_of_text[src]
        raise
    return module


def _require_name(module: types.ModuleType, class_name: str) -> None:
    if class_name not in vars(module):
        raise AssertionError(f"Persistent class {class_name} must be reachable by this name in {module.__name__}")


class _NullFile:
    def write(self, data: Any) -> int:
        return len(data)


class _TrialPickler(pickle.Pickler):
    """Pickler for the check only: leaves out what is known to pickle, so that large networks are checked quickly."""

    def persistent_id(self, obj: Any) -> str | None:
        if isinstance(obj, np.ndarray):
            return None if obj.dtype.hasobject else "array"
        known = isinstance(obj, torch.Tensor) or (type(obj) in _persistent_types)
        return "known" if known else None


def _try_pickling(obj: Any) -> None:
    """Pickle the state of an object into nothing; raises what pickle raises."""
    _TrialPickler(_NullFile()).dump(_describe(obj)["state"])
