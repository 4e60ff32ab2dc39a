"""Layered StyleGAN2: object masks without labels (Bielski and Favaro, 2019).

Importing the package puts a StyleGAN2-ADA base on ``sys.path``; see ``base.py``. Public names: ``BASE``, the base
in use, and ``Segmenter``, masks of real pictures with a trained model.
"""

from typing import Any

from layered_plugin.base import BASE

__all__ = ["BASE", "Segmenter"]


def __getattr__(name: str) -> Any:
    # Imported when it is first asked for: the commands that need no model start sooner.
    if name == "Segmenter":
        from layered_plugin.segmentation.segmenter import Segmenter
        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
