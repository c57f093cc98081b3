"""Joint k-means of the patches of several images, drawn with borders and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import matplotlib.patheffects as effects
import numpy as np
import scipy
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from mmengine.utils import deprecated_api_warning
from torch import Tensor

from .canvas import Pixels, check_pixels, resize

# Okabe and Ito's colors, with dark gray instead of black: borders are black.
_COLORS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (60, 60, 60),
)


def distinct_colors(count: int) -> list[tuple[int, int, int]]:
    """Return RGB colors; the first 8 are distinguishable with any common color blindness.

    Further colors are darker, then lighter shades of the first 8; show numbers next to them.
    """
    colors = []
    for index in range(count):
        base, cycle = np.array(_COLORS[index % len(_COLORS)]), index // len(_COLORS) % 3
        tone = (base, base * 0.55, base * 0.45 + 140)[cycle]
        red, green, blue = tone.round().astype(int).tolist()
        colors.append((red, green, blue))
    return colors


def joint_clusters(patches: Tensor, count: int, seed: int = 0) -> np.ndarray:
    """Cluster the patches of all images by the direction of their features.

    Runs k-means on L2-normalized features; the same seed gives the same clusters. Clusters are
    numbered by size; the largest is 0.

    Args:
        patches (Tensor): Features of B images, shape (B, C, h, w).
        count (int): Number of clusters, 2 or more.
        seed (int): Seed of the initial centers. Defaults to 0.

    Returns:
        np.ndarray: int, shape (B, h, w).

    Raises:
        ValueError: If there are fewer than 2 clusters, or fewer patches than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans  # takes seconds, and trainings import this module

    features = F.normalize(patches.detach().float(), dim=1).permute(0, 2, 3, 1).cpu()
    rows = features.flatten(0, 2).numpy()  # (B, h, w, C) -> (B h w, C)
    if not 2 <= count <= len(rows):
        raise ValueError(
            f'the number of clusters must be in 2..{len(rows)} (the patches), got {count}'
        )
    means = MiniBatchKMeans(count, batch_size=4096, n_init=5, random_state=seed).fit(rows)
    clusters = means.predict(rows)
    sizes = np.bincount(clusters, minlength=count)
    rank = np.argsort(np.argsort(-sizes, kind='stable'))
    return rank[clusters].reshape(features.shape[:3])


@deprecated_api_warning(dict(found='clusters'))
def match_clusters(clusters: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Renumber clusters to match those of a reference.

    The matching is one-to-one and maximizes the number of patches with the same number.

    Args:
        clusters (np.ndarray): Cluster of each patch, shape (B, h, w).
        reference (np.ndarray): Clusters of the same images, on any grid, shape (B, h2, w2).

    Returns:
        np.ndarray: ``clusters`` with new numbers.
    """
    rows = np.arange(clusters.shape[1]) * reference.shape[1] // clusters.shape[1]
    columns = np.arange(clusters.shape[2]) * reference.shape[2] // clusters.shape[2]
    other = reference[:, rows[:, None], columns]  # (B, h, w)
    count = int(max(clusters.max(), reference.max())) + 1
    shared = np.zeros((count, count))
    np.add.at(shared, (clusters.ravel(), other.ravel()), 1)
    _, names = scipy.optimize.linear_sum_assignment(shared, maximize=True)
    return names[clusters]


def cluster_overlay(
    image: Pixels,
    clusters: np.ndarray,
    strength: float = 0.7,
    colors: Optional[Sequence[tuple[int, int, int]]] = None,
) -> Pixels:
    """Blend the colors of clusters (h, w) with the gray image (H, W, 3).

    ``colors`` has one RGB triple for each cluster; :func:`distinct_colors` by default.
    """
    pixels = check_pixels(image)
    table = colors or distinct_colors(int(clusters.max()) + 1)
    colored = np.array(table, dtype=np.uint8)[clusters]
    gray = pixels.mean(axis=2, keepdims=True)
    return (strength * resize(colored, pixels.shape[:2]) + (1 - strength) * gray).astype(np.uint8)


def draw_borders(
    axes: Axes, clusters: np.ndarray, size: Sequence[int], smallest: float = 0.012
) -> None:
    """Draw borders between clusters, and the number of each cluster on its largest region.

    Args:
        axes (Axes): Axes that show the image.
        clusters (np.ndarray): Cluster of each patch, shape (h, w); negative ones get no number.
        size (sequence): Size (H, W) of the image in pixels.
        smallest (float): Regions below this fraction of the image get no number.
            Defaults to 0.012.
    """
    high, wide = size[0] / clusters.shape[0], size[1] / clusters.shape[1]
    beside = np.argwhere(clusters[:, :-1] != clusters[:, 1:])
    below = np.argwhere(clusters[:-1] != clusters[1:])
    lines = [[((c + 1) * wide - 0.5, (r + y) * high - 0.5) for y in (0, 1)] for r, c in beside]
    lines += [[((c + x) * wide - 0.5, (r + 1) * high - 0.5) for x in (0, 1)] for r, c in below]
    thickness = min(0.6, 14 / clusters.shape[1])  # fine grids must not turn black
    axes.add_collection(LineCollection(lines, colors='black', linewidths=thickness))
    for number in np.unique(clusters):
        regions, _ = scipy.ndimage.label(clusters == number)
        areas = np.bincount(regions.ravel())[1:]
        if number < 0 or areas.max() < smallest * clusters.size:
            continue
        row, column = _inner_point(regions == 1 + areas.argmax())
        # Keep the number inside the picture, even for a thin region at its edge.
        x = np.clip((column + 0.5) / clusters.shape[1], 0.05, 0.95) * size[1]
        y = np.clip((row + 0.5) / clusters.shape[0], 0.07, 0.93) * size[0]
        axes.text(
            x - 0.5,
            y - 0.5,
            str(number),
            ha='center',
            va='center',
            fontsize=6.5,
            fontweight='bold',
            color='white',
            path_effects=[effects.withStroke(linewidth=1.6, foreground='black')],
        )


def _inner_point(region: np.ndarray) -> tuple[int, int]:
    """Return the cell of a region (h, w) that is farthest from its border."""
    depth = scipy.ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)
