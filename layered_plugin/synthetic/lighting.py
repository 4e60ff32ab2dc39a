"""Put an object into a scene: contact shadow on the background, then one tint and one light over both.

Without these cues a pasted object is told from its background by its edge alone; with them the picture is one scene.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Light(NamedTuple):
    """How one picture is lit; lengths are fractions of the picture's side."""

    shadow_blur: float = 0.0  # standard deviation of the shadow's Gaussian
    shadow_offset: float = 0.0  # how far below the object its shadow lies
    shadow_strength: float = 0.0  # share of the background's light the full shadow takes, 0 = no shadow
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # factor per colour channel
    gradient: tuple[float, float] = (0.0, 0.0)  # change of brightness from edge to edge, (x, y)


@lru_cache(maxsize=64)
def blur_matrix(size_px: int, sigma_px: float, offset_px: float = 0.0) -> np.ndarray:
    """Matrix that blurs a column of pixels with a Gaussian and shifts it towards higher indices.

    Args:
        size_px: Number of pixels.
        sigma_px: Standard deviation in pixels, positive.
        offset_px: Shift in pixels, fractions allowed.

    Returns:
        [size_px, size_px], float32; apply as `matrix @ column`. Zeros are taken to lie outside the picture.
    """
    index = np.arange(size_px, dtype=np.float32)
    distance = index[:, None] - index[None, :] - offset_px
    reach = np.arange(-4 * size_px, 4 * size_px + 1, dtype=np.float32)
    weights = np.exp(-0.5 * (distance / sigma_px) ** 2)
    return (weights / np.exp(-0.5 * (reach / sigma_px) ** 2).sum()).astype(np.float32)


def contact_shadow(alpha: np.ndarray, blur: float, offset: float) -> np.ndarray:
    """Shadow an object casts on what lies right behind it: its mask [S, S], in [0, 1], blurred and moved down.

    Standard deviation, which is positive, and shift are fractions of the side.
    """
    size = alpha.shape[0]
    down = blur_matrix(size, blur * size, offset * size)
    across = blur_matrix(size, blur * size)
    return np.clip(down @ alpha @ across.T, 0.0, 1.0)


def cast_shadow(bg: np.ndarray, alpha: np.ndarray, light: Light) -> np.ndarray:
    """Background [S, S, 3] under the contact shadow of an object whose opacity is alpha, [S, S]."""
    if light.shadow_strength == 0 or light.shadow_blur == 0:
        return bg
    shade = contact_shadow(alpha, light.shadow_blur, light.shadow_offset)
    return bg * (1.0 - light.shadow_strength * shade)[:, :, None]


def light_field(size_px: int, gradient: tuple[float, float]) -> np.ndarray:
    """Factors [size_px, size_px] of linear light: 1 in the middle, changing by `gradient` from edge to edge, (x, y)."""
    axis = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px - 0.5
    return 1.0 + gradient[0] * axis[None, :] + gradient[1] * axis[:, None]


def put_into_scene(fg_premultiplied: np.ndarray, alpha: np.ndarray, bg: np.ndarray, light: Light) -> np.ndarray:
    """Composite an object over a background under a common light.

    Args:
        fg_premultiplied: Object's colour times its opacity, [S, S, 3], in [0, 1].
        alpha: Object's opacity, [S, S], in [0, 1].
        bg: Background, [S, S, 3], in [0, 1].

    Returns:
        Picture, [S, S, 3], uint8.
    """
    scene = fg_premultiplied + cast_shadow(bg, alpha, light) * (1.0 - alpha)[:, :, None]
    scene = scene * np.asarray(light.tint, dtype=np.float32) * light_field(alpha.shape[0], light.gradient)[:, :, None]
    return np.ascontiguousarray(to_uint8(scene))


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Round values in [0, 1] to 0..255, clipping what lies outside."""
    return np.clip(np.rint(values * 255.0), 0, 255).astype(np.uint8)
