"""Pickles that carry the source of their classes, so that snapshots outlive changes to the code.

The format is version 6 of the StyleGAN2-ADA interface: pickles can be exchanged with the official repository.
Unpickling runs the embedded source: never load a pickle from a source you do not trust.
"""

import copy
import functools
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

Description = dnnlib.EasyDict  # Of a pickled object: type, version, module_src, class_name, state.
Hook = Callable[[Description], Description]

_KIND = {"type": "class", "version": 6}
_RECIPE = "_persistent_recipe"  # Attribute of a decorated class: all of the description but the state.
_hooks: list[Hook] = []
_module_of_text: dict[str, types.ModuleType] = {}  # The one module that runs a text, imported or from a pickle.


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
    name, module = orig_class.__name__, sys.modules[orig_class.__module__]

    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        super(decorated, self).__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._init_args, self._init_kwargs = copy.deepcopy((args, kwargs))
        if name not in vars(module):
            raise AssertionError(f"Persistent class {name} must be reachable by this name in {module.__name__}")
        _TrialPickler().dump(_state_of(self))

    members = {
        "__doc__": orig_class.__doc__,
        "__module__": __name__,
        "__qualname__": f"{persistent_class.__name__}.<locals>.{name}",
        "__init__": construct,
        "__reduce__": _reduce,
        "init_args": property(lambda self: copy.deepcopy(self._init_args)),
        "init_kwargs": property(lambda self: dnnlib.EasyDict(copy.deepcopy(self._init_kwargs))),
        _RECIPE: {**_KIND, "module_src": _text_of(module), "class_name": name},
    }
    decorated = types.new_class(name, (orig_class,), exec_body=lambda namespace: namespace.update(members))
    return decorated


def is_persistent(obj: Any) -> bool:
    """Tell whether obj is a decorated class or an object of exactly such a class; subclasses do not count."""
    return _RECIPE in vars(obj if isinstance(obj, type) else type(obj))


def import_hook(hook: Hook) -> Hook:
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


def _state_of(obj: Any) -> Any:
    # Up to Python 3.10 only classes that define __getstate__ have one.
    return obj.__getstate__() if hasattr(obj, "__getstate__") else vars(obj)


def _reduce(self: Any) -> tuple[Any, ...]:
    """`__reduce__` of decorated classes; the recipe is that of the outermost decorated class of the object's type."""
    return _reconstruct_persistent_obj, ({**getattr(self, _RECIPE), "state": _state_of(self)},)


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    """Rebuild an object from its description. Pickles refer to this function by name: it cannot be renamed."""
    description = functools.reduce(_rewritten, _hooks, _as_attributes(meta | {"state": _as_attributes(meta["state"])}))
    if any(description.get(key) != value for key, value in _KIND.items()):
        raise pickle.UnpicklingError(
            f"Expected a persistent {_KIND['type']} of version {_KIND['version']}, "
            f"but got {description.get('type')!r} of version {description.get('version')!r}"
        )
    found = vars(_module_running(description.module_src)).get(description.class_name)
    if found is None:
        raise pickle.UnpicklingError(f"The source in the pickle does not define the class {description.class_name!r}")
    cls: Any = persistent_class(found)
    obj = cls.__new__(cls)
    restore = getattr(obj, "__setstate__", vars(obj).update)
    restore(description.state)
    return obj


def _as_attributes(value: Any) -> Any:
    return dnnlib.EasyDict(value) if isinstance(value, dict) else value


def _rewritten(description: Description, hook: Hook) -> Description:
    result = hook(description)
    if result is None:
        raise ValueError(f"Expected import hook {hook!r} to return the description, but got None")
    return result


def _text_of(module: types.ModuleType) -> str:
    """Return the source of a module, and remember the module as the one that runs it."""
    for text, known in _module_of_text.items():
        if known is module:
            return text
    text = inspect.getsource(module)
    _module_of_text[text] = module
    return text


def _module_running(text: str) -> types.ModuleType:
    """Return the module that runs the given source, executing it in a new one if it is not known."""
    if text not in _module_of_text:
        module = types.ModuleType(f"_imported_module_{uuid.uuid4().hex}")
        # Registered first: decorators in the text look up their own module and its source.
        _module_of_text[text] = sys.modules[module.__name__] = module
        try:
            exec(text, vars(module))
        except BaseException:
            # A half-executed module must not satisfy the next attempt.
            del _module_of_text[text], sys.modules[module.__name__]
            raise
    return _module_of_text[text]


class _TrialPickler(pickle.Pickler):
    """Pickler into nothing: raises what pickling would raise.

    It leaves out what is known to pickle, so that large networks are checked quickly.
    """

    def __init__(self) -> None:
        super().__init__(types.SimpleNamespace(write=len))

    def persistent_id(self, obj: Any) -> str | None:
        is_numbers = isinstance(obj, np.ndarray) and not obj.dtype.hasobject
        return "known" if is_numbers or isinstance(obj, torch.Tensor) or is_persistent(type(obj)) else None
