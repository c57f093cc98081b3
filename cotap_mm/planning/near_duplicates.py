"""Find nearly identical images by small gray thumbnails."""

from __future__ import annotations

import cv2
import numpy as np

#: Side of a thumbnail in pixels.
THUMBNAIL = 16
#: Correlations of two thumbnails, and of their horizontal gradients, from which on two images are
#: nearly identical. Chosen by hand on CamVid and raccoon photographs: copies in another size,
#: quality, brightness or in gray are above.
ALIKE = (0.97, 0.93)
_BLANK = 2.0  # gray levels


def thumbnail_of(pixels: np.ndarray) -> np.ndarray:
    """Shrink an image to a gray thumbnail, whatever its aspect ratio.

    Args:
        pixels (np.ndarray): Shape (H, W, 3), uint8.

    Returns:
        np.ndarray: Gray levels, shape (16, 16), float32.
    """
    small = cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def is_blank(thumbnail: np.ndarray) -> bool:
    """Whether an image has hardly any contrast, so that no other one can be compared with it."""
    return float(thumbnail.std()) < _BLANK


def similar_pairs(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Find pairs of nearly identical images.

    Changes of size, contrast and JPEG quality do not matter. Gradients are compared as well, since
    photographs of one kind, with sky above and ground below, have similar thumbnails.

    Args:
        thumbnails (np.ndarray): Shape (n, 16, 16).

    Returns:
        list[tuple[int, int]]: Pairs i < j of indices.
    """
    alike = _correlations(thumbnails) >= ALIKE[0]
    alike &= _correlations(np.diff(thumbnails, axis=2)) >= ALIKE[1]
    first, second = np.nonzero(np.triu(alike, k=1))
    return list(zip(first.tolist(), second.tolist()))


def _correlations(images: np.ndarray) -> np.ndarray:
    """Correlations of all pairs, shape (n, n)."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat @ flat.T
