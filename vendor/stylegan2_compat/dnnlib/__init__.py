"""Helpers that are independent of the networks: attribute dicts, name lookup, downloads, logging.

The names follow the interface of the official StyleGAN2-ADA repository, so that either base can be used.
"""

from dnnlib.util import EasyDict, make_cache_dir_path

__all__ = ["EasyDict", "make_cache_dir_path"]
