"""Scores of DAVIS for a mask: region similarity J and contour accuracy F.

Source: Perazzi et al. 2016; statistics over frames as in DAVIS-2017,
https://arxiv.org/abs/1704.00675.
"""

from __future__ import annotations

import math

import numpy as np
import scipy

BOUNDARY_TOLERANCE = 0.008  # of the diagonal of the frame


def region_similarity(mask: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of two masks, bool, shape (H, W); 1 if both are empty."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


def boundary_measure(mask: np.ndarray, truth: np.ndarray) -> float:
    """F: harmonic mean of the shares of each boundary that are close to the other boundary.

    Close means within ceil(0.008 x diagonal) pixels. Two masks without boundary score 1.

    Args:
        mask (ndarray): Predicted mask, bool, shape (H, W).
        truth (ndarray): True mask, bool, shape (H, W).

    Returns:
        float: 0 to 1.
    """
    tolerance = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*truth.shape))
    edges = _boundary(mask), _boundary(truth)
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    precision, recall = (
        (scipy.ndimage.distance_transform_edt(~other)[edge] <= tolerance).mean()
        for edge, other in (edges, edges[::-1])
    )
    both = precision + recall
    return float(2 * precision * recall / both) if both else 0.0


def frame_statistics(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, recall and decay over the frames of one object, as defined by DAVIS."""
    edges = np.rint(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    decay = values[: edges[1] + 1].mean() - values[edges[3] :].mean()
    return values.mean(), (values > 0.5).mean(), decay


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the pixel to the right, below, or right below."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode='edge')
    here = padded[:-1, :-1]
    return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])
