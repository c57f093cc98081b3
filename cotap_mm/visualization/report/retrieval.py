"""Patches of other images that are most similar to one patch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from cotap_mm.visualization.figures.canvas import Pixels
from cotap_mm.visualization.figures.similarity import similarity_map


class Match(NamedTuple):
    """A patch that was retrieved.

    Attributes:
        image (int): Index of its image.
        row (int): Row on the patch grid.
        column (int): Column on the patch grid.
        similarity (float): Cosine to the query.
    """

    image: int
    row: int
    column: int
    similarity: float


def nearest_patches(
    features: Tensor, query: tuple[int, int, int], count: int, apart: int = 1
) -> list[Match]:
    """Find the patches of the other images that are most similar to a patch.

    Args:
        features (Tensor): Features of B images, shape (B, C, h, w).
        query (tuple): (image, row, column); patches of this image are not returned.
        count (int): Maximum number of patches.
        apart (int): Patches of one image are at least this many rows or columns apart, so that
            a single region does not fill the list. Defaults to 1 (all patches may be returned).

    Returns:
        list: :class:`Match`, the most similar first.

    Raises:
        ValueError: If the query is outside the grid, or there is only one image.
    """
    if len(features) < 2:
        raise ValueError(f'retrieval needs at least two images, got {len(features)}')
    image, row, column = query
    similarity = np.stack(
        [similarity_map(features[image], (row, column), other) for other in features]
    )  # (B, h, w)
    similarity[image] = -np.inf
    found: list[Match] = []
    while len(found) < count and np.isfinite(similarity).any():
        i, r, c = map(int, np.unravel_index(similarity.argmax(), similarity.shape))
        found.append(Match(i, r, c, float(similarity[i, r, c])))
        top, left = max(0, r - apart + 1), max(0, c - apart + 1)
        similarity[i, top : r + apart, left : c + apart] = -np.inf
    return found


def crop_around(
    image: Pixels, center: tuple[float, float], side: int
) -> tuple[Pixels, tuple[float, float]]:
    """Cut a square around a position, shifted into the image.

    Args:
        image (np.ndarray): uint8, shape (H, W, 3).
        center (tuple): Row and column in pixels.
        side (int): Side of the square in pixels; at most that of the image is used.

    Returns:
        tuple: The square, and where the center is in it, in pixels.
    """
    side = min(side, *image.shape[:2])
    top, left = (
        int(min(max(round(at - side / 2), 0), length - side))
        for at, length in zip(center, image.shape)
    )
    return image[top : top + side, left : left + side], (center[0] - top, center[1] - left)
