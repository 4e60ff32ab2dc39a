"""Layered StyleGAN2: object masks without labels (Bielski and Favaro, 2019).

Importing the package puts a StyleGAN2-ADA base on ``sys.path``; see ``upstream.py``.
"""

from layered_plugin.upstream import activate

BASE = activate()
