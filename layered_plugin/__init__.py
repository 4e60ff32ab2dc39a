"""Layered StyleGAN2: object masks without labels (Bielski and Favaro, 2019).

Importing the package puts a StyleGAN2-ADA base on ``sys.path``; see ``base.py``. Public names: ``BASE``, the base
in use; ``Segmenter``, masks of real pictures with a trained model; ``Refinement``, what more is done for a mask.
"""

import sys
from typing import Any

from layered_plugin.calls import is_command

try:
    from layered_plugin.base import BASE
except ImportError as err:
    if is_command():  # An unusable base is the user's to mend: no traceback.
        sys.exit(f"Error: {err}")
    raise

__version__ = "0.1.0"

__all__ = ["BASE", "Refinement", "Segmenter"]


def __getattr__(name: str) -> Any:
    # Imported when it is first asked for: the commands that need no model start sooner.
    if name in ("Refinement", "Segmenter"):
        from layered_plugin.segmentation import segmenter
        return getattr(segmenter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
