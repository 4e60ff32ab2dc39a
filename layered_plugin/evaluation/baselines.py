"""Masks that anybody can compute from one picture without training: what a trained model has to beat.

Each takes a picture [H, W, 3], uint8, and returns its object pixels [H, W], bool. Where a method only tells two regions
apart, the one with less of the border is the object; if they have equal shares, the brighter one. A picture of one
color has no object for k-means, Otsu and GrabCut. Anything but uint8 [H, W, 3] is a ValueError.
"""

from collections.abc import Callable

import numpy as np
import PIL.Image

from layered_plugin.errors import MissingLibraryError

# Chosen without looking at a mask: half of each side for the object; for GrabCut, which takes what lies outside for
# certain background, half of the picture.
BOX_SHARE = 0.25
GRABCUT_SHARE = 0.5
GRABCUT_ROUNDS = 5
KMEANS_ROUNDS = 20


def full(picture: np.ndarray) -> np.ndarray:
    """Everything is object: the full-image mask, the paper's score to beat."""
    _check(picture)
    return np.ones(picture.shape[:2], dtype=bool)


def center_box(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """A box in the middle, in the picture's own proportions, that covers a share of it, in (0, 1], else ValueError.

    The margins, alike on both sides, are rounded to whole pixels.
    """
    if not 0 < share <= 1:
        raise ValueError(f"Expected argument `share` to be in (0, 1], but got {share}")

    def box(picture: np.ndarray) -> np.ndarray:
        _check(picture)
        mask = np.zeros(picture.shape[:2], dtype=bool)
        mask[_box(picture.shape[:2], share)] = True
        return mask

    return box


def kmeans(picture: np.ndarray) -> np.ndarray:
    """Two-means on color; deterministic, for it starts on both sides of the mean, along the widest spread."""
    from scipy.cluster.vq import kmeans2  # Takes long to import.

    _check(picture)
    colors = picture.reshape(-1, 3).astype(np.float64)
    if (colors == colors[0]).all():
        return np.zeros(picture.shape[:2], dtype=bool)
    variances, directions = np.linalg.eigh(np.cov(colors.T, bias=True))  # Ascending.
    step = directions[:, -1] * variances[-1] ** 0.5
    center, label = kmeans2(colors, colors.mean(axis=0) + [-step, step], iter=KMEANS_ROUNDS, minit="matrix")
    brighter = center.sum(axis=1).argmax()
    return _away_from_border(label.reshape(picture.shape[:2]) == brighter)


def otsu(picture: np.ndarray) -> np.ndarray:
    """Otsu's threshold on gray: the one that leaves the greatest variance between both sides."""
    _check(picture)
    gray = np.asarray(PIL.Image.fromarray(picture).convert("L"))
    count = np.bincount(gray.ravel(), minlength=256)
    below, moment = np.cumsum(count), np.cumsum(count * np.arange(256))
    product = below.astype(np.float64) * (gray.size - below)
    gap = moment[-1] * below.astype(np.float64) - moment.astype(np.float64) * gray.size
    between = np.divide(gap**2, product, out=np.zeros(256), where=product > 0)
    return _away_from_border(gray > between.argmax())


def grabcut(picture: np.ndarray) -> np.ndarray:
    """GrabCut started from a box in the middle; deterministic. MissingLibraryError if OpenCV is not installed.

    A picture of which the box leaves nothing outside, a few pixels wide, keeps the box as its mask.
    """
    _check(picture)
    try:
        import cv2
    except ImportError as err:
        raise MissingLibraryError(f"{err}; pip install 'layered-plugin[grabcut]' brings OpenCV") from err
    inside = center_box(GRABCUT_SHARE)(picture)
    if inside.all():
        return inside
    mask = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    cv2.setRNGSeed(0)  # It starts its color models by k-means.
    cv2.grabCut(np.ascontiguousarray(picture[:, :, ::-1]), mask, None, np.zeros((1, 65)), np.zeros((1, 65)),
                GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    return mask == cv2.GC_PR_FGD


BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = dict(
    full=full, box=center_box(BOX_SHARE), kmeans=kmeans, otsu=otsu, grabcut=grabcut)


def _box(shape: tuple[int, ...], share: float) -> tuple[slice, slice]:
    starts = (min(round(side * (1 - share**0.5) / 2), (side - 1) // 2) for side in shape)
    rows, columns = (slice(start, side - start) for start, side in zip(starts, shape, strict=True))
    return rows, columns


def _away_from_border(mask: np.ndarray) -> np.ndarray:
    border = np.ones(mask.shape, dtype=bool)
    border[1:-1, 1:-1] = False
    return ~mask if mask[border].mean() > 0.5 else mask


def _check(picture: np.ndarray) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise ValueError(f"Expected argument `picture` to be uint8 [H, W, 3] and not empty, "
                         f"but got {picture.dtype} {list(picture.shape)}")
