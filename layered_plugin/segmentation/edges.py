"""Masks as sharp as the picture: the network's small soft mask, refined with the picture itself as guide.

What the network is unsure of, the colors about it decide. Two steps, on the picture reduced to `GUIDE_PX`:

1. Bayes' rule at each pixel, then neighbours of like color follow each other, as in self-training (`colors`).
2. The guided filter (He et al., Guided Image Filtering, 2013): in each small window the mask is fitted as a linear
   function of color. Only the coefficients are enlarged; the full-size picture goes through them.

No function here has seen a label; all are plain arithmetic on the CPU.
"""

import numpy as np
import PIL.Image
import torch
from torch.nn import functional as F

from layered_plugin.segmentation.colors import MARGIN, correct_by_colors

LEAST_ENLARGEMENT = 2  # Below it, a stretched mask is nearly as sharp as the picture, and is left alone.
GUIDE_PX = 128  # Longer side of the picture that the two steps see, or the network's where that is larger.
GUIDED_WINDOW, GUIDED_VARIANCE = 17, 1e-3  # Variance below which a window counts as flat; colors in [0, 1].
MEANS_WINDOW = 9  # For the mean colors of object and ground, on the guide at half its size.
EDGE_WINDOW = 13  # Colors further than half of this from the edge are the object's own, unsure as the mask may be.


def is_enlarged(size: tuple[int, int], resolution: int) -> bool:
    """Whether a picture of this width and height is so much larger than the network that its mask is refined."""
    return max(size) >= LEAST_ENLARGEMENT * resolution


def sharpen_mask(picture: PIL.Image.Image, mask: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """Refine a network's mask at the picture's own size.

    Args:
        picture: The picture, RGB.
        mask: The network's opacity, [h, w], float32, in [0, 1], of the whole picture and nothing else, at any size: of
            a picture that the network saw in its own proportions, the part of its square where the picture lies.
        margin: As of `correct_by_colors`.

    Returns:
        Opacity, [H, W], float32, in [0, 1].
    """
    guide = _reduce(picture, max(GUIDE_PX, *mask.shape))  # [3, h, w]
    prior = _stretch(mask[None], guide.shape[1:])[0]
    colors = torch.from_numpy(guide * 2 - 1)[None]
    posterior = correct_by_colors(colors, torch.from_numpy(prior)[None, None], margin)[0, 0].numpy()
    slope, offset = _guided_coefficients(guide, posterior)
    pixels = np.asarray(picture)
    out = _stretch(offset[None], pixels.shape[:2])[0]
    for channel in range(3):
        plane = _stretch(slope[channel, None] / 255, pixels.shape[:2])[0]  # One at a time stays in the cache.
        plane *= pixels[:, :, channel]
        out += plane
    return np.clip(out, 0, 1, out=out)


def cut_out(picture: PIL.Image.Image, mask: np.ndarray, opacity: np.ndarray, estimate: bool) -> PIL.Image.Image:
    """The object alone. Where nothing of it is to be seen, it is black: no ground lies hidden in files.

    Args:
        picture: The picture, RGB.
        mask: Opacity of the object, [H, W], float32, in [0, 1].
        opacity: Of the cut-out, [H, W], uint8: the mask in levels, or where it is object.
        estimate: Give the edge the object's own colors (`foreground_colors`), else the picture's?

    Returns:
        RGBA.
    """
    colors = foreground_colors(picture, mask) if estimate else picture
    out = PIL.Image.new("RGB", picture.size)
    out.paste(colors, mask=PIL.Image.fromarray(opacity > 0))
    out.putalpha(PIL.Image.fromarray(opacity))
    return out


def foreground_colors(picture: PIL.Image.Image, mask: np.ndarray) -> PIL.Image.Image:
    """Colors of the object without the background that shines through its edge.

    Of each pixel, the mean colors of object and background about it are taken, and what their mixture leaves
    unexplained is given to the object (Forte and Pitie, Approximate Fast Foreground Colour Estimation, 2021, one
    pass). Pixels with an opacity of 0 or 1, or further than half of `EDGE_WINDOW` from the edge, keep their color.

    Args:
        picture: The picture, RGB.
        mask: Opacity, [H, W], float32, in [0, 1].

    Returns:
        RGB.
    """
    size_px = max(1, min(GUIDE_PX, max(mask.shape)) // 2)
    guide = _reduce(picture, size_px)
    alpha = _reduce(PIL.Image.fromarray((mask * 255 + 0.5).astype(np.uint8)), size_px)
    weights = np.concatenate([alpha, 1 - alpha])**2  # [2, h, w]. Squared: what is wholly one or the other counts.
    sums = _box_mean(np.concatenate([weights, weights[0] * guide, weights[1] * guide]), MEANS_WINDOW)
    means = sums[2:].reshape(2, *guide.shape) / (sums[:2, None] + 1e-4)
    mixed = (mask > 0) & (mask < 1) & _near_edge(mask >= 0.5, EDGE_WINDOW)
    places = np.flatnonzero(mixed)  # Few, and the only ones worked.
    opacity = mask.ravel()[places]
    fg, bg = np.split(_stretch_to(np.concatenate(means) * 255, mask.shape, places), 2)  # [3, M] each.
    out = np.array(picture).reshape(-1)
    channels = 3 * places + np.arange(3)[:, None]
    unexplained = out[channels] - (bg + opacity * (fg - bg))
    out[channels] = (fg + opacity * unexplained + 0.5).clip(0, 255).astype(np.uint8)
    return PIL.Image.fromarray(out.reshape(*mask.shape, 3))


def _near_edge(inside: np.ndarray, window: int) -> np.ndarray:
    """Whether the square window about each pixel has pixels both inside and outside; of and to [H, W], bool."""
    kinds = 2 - inside.view(np.uint8)  # 1 is inside, 2 outside.
    for rows in (kinds, kinds.T):  # Views: one axis after the other.
        reach = 0
        while reach < window // 2:  # Each pixel knows those up to here on both sides, and so asks far ones for more.
            step = min(2 * reach + 1, window // 2 - reach)
            before = rows.copy(order="K")
            rows[step:] |= before[:-step]
            rows[:-step] |= before[step:]
            reach += step
    return kinds == 3


def _guided_coefficients(guide: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope [3, h, w] and offset [h, w] of the mask as a linear function of color, averaged over windows."""
    red, green, blue = guide
    products = [red * red, red * green, red * blue, green * green, green * blue, blue * blue]
    means = _box_mean(np.concatenate([guide, mask[None], guide * mask, np.stack(products)]), GUIDED_WINDOW)
    color, mean = means[:3], means[3]
    r, g, b = color
    rr, rg, rb, gg, gb, bb = means[7:] - np.stack([r * r, r * g, r * b, g * g, g * b, b * b])
    rr, gg, bb = (variance + GUIDED_VARIANCE for variance in (rr, gg, bb))
    # Inverse of the covariance by its cofactors: for 3x3 that is several times quicker than a solver.
    inverse = np.stack([gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg,
                        rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg])
    inverse /= rr * inverse[0] + rg * inverse[1] + rb * inverse[2]
    with_mask = means[4:7] - color * mean
    slope = np.stack([(inverse[list(row)] * with_mask).sum(axis=0) for row in ((0, 1, 2), (1, 3, 4), (2, 4, 5))])
    out = _box_mean(np.concatenate([slope, (mean - (slope * color).sum(axis=0))[None]]), GUIDED_WINDOW)
    return out[:3], out[3]


def _box_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a square window of odd side about each pixel, beyond the border the nearest pixel; of [C, h, w]."""
    padded = F.pad(torch.from_numpy(values)[None], [window // 2] * 4, mode="replicate")[0]
    return (_window_sums(_window_sums(padded, window, 1), window, 2) / window**2).numpy()


def _window_sums(values: torch.Tensor, num: int, axis: int) -> torch.Tensor:
    """Sum of each pixel and those behind it along an axis, num in all, in few additions: twice that of half as many."""
    if num == 1:
        return values
    half, length = _window_sums(values, num // 2, axis), values.shape[axis] - num + 1
    out = half.narrow(axis, 0, length) + half.narrow(axis, num // 2, length)
    return out + values.narrow(axis, num - 1, length) if num % 2 else out


def _reduce(picture: PIL.Image.Image, size_px: int) -> np.ndarray:
    """RGB or gray to [C, h, w] float32 in [0, 1], longer side size_px; not enlarged."""
    factor = min(1.0, size_px / max(picture.size))
    width, height = (max(1, round(side * factor)) for side in picture.size)
    # First whole pixels are averaged, which is quick.
    small = picture.resize((width, height), PIL.Image.Resampling.BOX, reducing_gap=1)
    values = np.asarray(small, np.float32).reshape(height, width, -1)
    return np.ascontiguousarray(values.transpose(2, 0, 1)) / 255


def _stretch(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bilinear, [C, h, w] to [C, H, W], float32."""
    return F.interpolate(torch.from_numpy(values)[None], size=tuple(size), mode="bilinear")[0].numpy()


def _stretch_to(values: np.ndarray, size: tuple[int, ...], places: np.ndarray) -> np.ndarray:
    """Of what ``_stretch`` gives the pixels at some places, numbered row by row alone; [C, M]."""
    row, column = np.divmod(places, size[1])
    grid = np.stack([(2 * column + 1) / size[1], (2 * row + 1) / size[0]], axis=1) - 1  # In [-1, 1], border to border.
    out = F.grid_sample(torch.from_numpy(values)[None], torch.from_numpy(grid.astype(np.float32))[None, None],
                        padding_mode="border", align_corners=False)  # [1, C, 1, M]
    return out[0, :, 0].numpy()
