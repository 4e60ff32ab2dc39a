"""Score the outline of a mask, which the overlap hardly sees."""

import numpy as np

TOLERANCE_PX = 2.0  # Largest distance, of centres, that counts as nearby.


def boundary_f(pred: np.ndarray, target: np.ndarray) -> float:
    """Boundary F: harmonic mean of two shares of boundary pixels that have one of the other mask's nearby.

    A boundary pixel is an object pixel with a neighbour, of four, outside the object; the picture's border is none.

    Args:
        pred: Predicted object pixels, [H, W], bool.
        target: True object pixels, [H, W], bool.

    Returns:
        In [0, 1]; 1 where neither mask has a boundary, 0 where one of them has none.
    """
    pred_pixels, true_pixels = boundary_pixels(pred), boundary_pixels(target)
    if not len(pred_pixels) or not len(true_pixels):
        return float(len(pred_pixels) == len(true_pixels))
    precision, recall = _share_near(pred_pixels, true_pixels), _share_near(true_pixels, pred_pixels)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def boundary_pixels(mask: np.ndarray) -> np.ndarray:
    """Places (row, column) of the boundary pixels of a mask [H, W], bool; [K, 2]."""
    from scipy.ndimage import binary_erosion  # Takes long to import.

    return np.argwhere(mask & ~binary_erosion(mask, border_value=1))


def _share_near(places: np.ndarray, others: np.ndarray) -> float:
    from scipy.spatial import cKDTree  # Takes long to import.

    distance, _ = cKDTree(others).query(places, distance_upper_bound=TOLERANCE_PX + 1e-6)  # Else infinite.
    return float(np.isfinite(distance).mean())
