"""Choose and activate the StyleGAN2-ADA base, and work around its age from outside.

Two bases share the import names ``dnnlib``, ``torch_utils``, ``training`` and ``legacy``:

* **official**: an unmodified checkout of the official stylegan2-ada-pytorch, at the path in the environment
  variable ``STYLEGAN2_ADA_PYTORCH`` or at ``vendor/stylegan2-ada-pytorch``;
* **bundled**: our own implementation of the same interface, ``vendor/stylegan2_compat``; in an installed package,
  ``layered_plugin/_base``.

A checkout is never edited. What the official code needs on current libraries is done here, once, in
``_work_around_age``; the rest of what fails there (its loop, its sampler) is not called by this plugin.
"""

import importlib
import os
import sys
import types
from pathlib import Path
from typing import NamedTuple

from layered_plugin.errors import BaseError

ENV_NAME = "STYLEGAN2_ADA_PYTORCH"

PACKAGE_DIR = Path(__file__).resolve().parent
VENDOR_DIR = PACKAGE_DIR.parent / "vendor"
INSTALLED_DIR = PACKAGE_DIR / "_base"  # In a wheel (setup.py).
BUNDLED_DIR = INSTALLED_DIR if INSTALLED_DIR.is_dir() else VENDOR_DIR / "stylegan2_compat"
CHECKOUT_DIR = VENDOR_DIR / "stylegan2-ada-pytorch"

# What the plugin imports, and what that imports in an official checkout; a folder that lacks one is no usable base.
REQUIRED_FILES = (
    "dnnlib/__init__.py",
    "dnnlib/util.py",
    "legacy.py",
    "torch_utils/__init__.py",
    "torch_utils/custom_ops.py",
    "torch_utils/misc.py",
    "torch_utils/ops/__init__.py",
    "torch_utils/ops/bias_act.py",
    "torch_utils/ops/conv2d_gradfix.py",
    "torch_utils/ops/conv2d_resample.py",
    "torch_utils/ops/fma.py",
    "torch_utils/ops/grid_sample_gradfix.py",
    "torch_utils/ops/upfirdn2d.py",
    "torch_utils/persistence.py",
    "torch_utils/training_stats.py",
    "training/__init__.py",
    "training/augment.py",
    "training/dataset.py",
    "training/loss.py",
    "training/networks.py",
)


class Base(NamedTuple):
    """The base in use."""

    name: str  # "official" or "bundled"
    path: Path  # Folder that holds dnnlib, torch_utils, training, legacy.

    def __str__(self) -> str:
        return f"{self.name} ({self.path})"


def choose() -> Base:
    """Find the base without importing it.

    Order: a base that the host program has already imported (an upstream script that unpickles one of our
    networks), the environment variable, a checkout under ``vendor/``, the bundled base.

    Raises:
        BaseError: The folder named by the environment variable, or the checkout, is not a usable base.
    """
    loaded = sys.modules.get("torch_utils") or sys.modules.get("dnnlib")
    if loaded is not None and loaded.__file__:
        return _base_at(Path(loaded.__file__).resolve().parent.parent, "already imported")
    env_path = os.environ.get(ENV_NAME)
    if env_path:
        return _base_at(Path(env_path).expanduser().resolve(), f"named by {ENV_NAME}")
    if CHECKOUT_DIR.is_dir() and any(CHECKOUT_DIR.iterdir()):
        return _base_at(CHECKOUT_DIR, "found under vendor/")
    return _base_at(BUNDLED_DIR, "bundled")


def activate() -> Base:
    """Choose the base, put it on ``sys.path`` with the work-arounds that it needs, once, and return it."""
    base = choose()
    if str(base.path) not in sys.path:
        sys.path.insert(0, str(base.path))
    if base.name == "official":
        _work_around_age()
    return base


def _base_at(path: Path, origin: str) -> Base:
    if not path.is_dir():
        raise BaseError(f"StyleGAN2-ADA base {origin}: no such folder: {path}. "
                        f"Clone the official repository there, or unset {ENV_NAME} to use the bundled base.")
    missing = [name for name in REQUIRED_FILES if not (path / name).is_file()]
    if missing:
        hint = " This looks like the TensorFlow version." if (path / "dnnlib/tflib").is_dir() else ""
        raise BaseError(f"StyleGAN2-ADA base {origin}: {path} lacks {', '.join(missing)}.{hint} It must be the root "
                        f"of a stylegan2-ada-pytorch checkout; unset {ENV_NAME} to use the bundled base.")
    return Base("bundled" if path == BUNDLED_DIR.resolve() else "official", path)


def _work_around_age() -> None:
    """Let an official checkout run on current Python and PyTorch, on the CPU too.

    * ``distutils`` left the standard library in Python 3.12; ``dnnlib.util`` needs one function of it.
    * ``cpp_extension.load`` of current PyTorch no longer leaves the built module in ``sys.modules``, where the
      official plug-in loader looks for it after a successful build.

    Its gradient fixes (``conv2d_gradfix``, ``grid_sample_gradfix``) name PyTorch 1.7 to 1.9 only. They are off
    until the official loop switches them on; our loop leaves them off, and PyTorch's own operators differentiate
    twice. Its loop's CUDA-only calls and its sampler are replaced by ``training/loop.py`` and ``data/dataset.py``.
    """
    from torch.utils import cpp_extension  # Imports setuptools, which may bring a distutils of its own.

    try:
        importlib.import_module("distutils.util")
    except ImportError:
        distutils, util = types.ModuleType("distutils"), types.ModuleType("distutils.util")
        util.strtobool = _strtobool  # type: ignore[attr-defined]
        distutils.util = util  # type: ignore[attr-defined]
        sys.modules.update({"distutils": distutils, "distutils.util": util})

    if not hasattr(cpp_extension.load, "registers_module"):
        build = cpp_extension.load

        def load(name: str, *args, **kwargs):
            module = build(name, *args, **kwargs)
            sys.modules.setdefault(name, module)
            return module

        load.registers_module = True  # type: ignore[attr-defined]
        cpp_extension.load = load


def _strtobool(text: str) -> int:
    word = text.strip().lower()
    if word in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if word in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError(f"Expected a word for true or false, but got {text!r}")


BASE = activate()
