"""Layers, the networks that draw and find them, and what is computed on them.

``layers``: compositing (Eq. 1). ``perturb``: the shift (Eq. 2). ``mask_losses``: size and binarisation of masks (Eq. 3,
4) and more. ``generator`` draws layers from z; ``encoder`` finds their codes, ``unet`` their masks, in a picture.
"""
