"""Panels of patch features that several sections of a report share."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from cotap_mm.visualization.figures.canvas import Pixels, frame_patch
from cotap_mm.visualization.figures.clusters import (
    cluster_overlay,
    draw_borders,
    joint_clusters,
    match_clusters,
)
from cotap_mm.visualization.figures.grid import Panel, Scale
from cotap_mm.visualization.figures.pca import basis_note, shared_pca_maps
from cotap_mm.visualization.figures.similarity import similarity_panels

from .image_set import ImageSet

Patch = tuple[int, int, int]  # image, row, column
Features = dict[str, Tensor]  # name -> patch features of the images, (B, C, h, w)


def grid_of(features: Features) -> tuple[int, int]:
    """Return the patch grid (h, w) of the first network."""
    first = next(iter(features.values()))
    return first.shape[2], first.shape[3]


def channel_note(features: Features) -> str:
    """Return :func:`basis_note` of features."""
    return basis_note({name: maps.shape[1] for name, maps in features.items()})


def marked_panels(images: ImageSet, patch: Patch, grid: tuple[int, int]) -> list[Panel]:
    """Frame a patch in its image, with a ring around it if patches are small.

    Args:
        images (ImageSet): Images to show.
        patch (tuple): (image, row, column).
        grid (tuple): Number of patches (h, w).

    Returns:
        list: One panel per image.
    """
    frame = partial(
        frame_patch,
        patch=patch[1:],
        grid=grid,
        size=images.size,
        thickness=0.7,
        ring=9 if min(grid) > 20 else None,
    )
    return [
        Panel(image, frame if index == patch[0] else None)
        for index, image in enumerate(images.pixels)
    ]


def patch_on_grid(patch: Patch, grid: tuple[int, int], features: Tensor) -> tuple[int, int]:
    """Convert (row, column) of a patch on ``grid`` to the grid of ``features``."""
    rows, columns = features.shape[2:]
    row = (2 * patch[1] + 1) * rows // (2 * grid[0])
    column = (2 * patch[2] + 1) * columns // (2 * grid[1])
    return row, column


def similarity_maps(
    features: Tensor, patch: Patch, grid: tuple[int, int]
) -> tuple[list[Pixels], Scale]:
    """Draw the similarity of a patch, given on ``grid``, to the patches of all images.

    Args:
        features (Tensor): Features of one network, shape (B, C, h, w).
        patch (tuple): (image, row, column).
        grid (tuple): Grid (h, w) that row and column refer to.

    Returns:
        tuple: One map per image, uint8 (h, w, 3), and their color scale.
    """
    return similarity_panels(list(features), patch[0], patch_on_grid(patch, grid, features))


def cluster_panels(images: ImageSet, clusters: np.ndarray) -> list[Panel]:
    """Draw clusters (B, h, w) on their images, with borders and numbers."""
    return [
        Panel(cluster_overlay(image, own), partial(draw_borders, clusters=own, size=images.size))
        for image, own in zip(images.pixels, clusters)
    ]


def all_clusters(features: Features, count: int) -> dict[str, np.ndarray]:
    """Compute clusters (B, h, w) of each network, numbered like those of the first one."""
    clusters = {name: joint_clusters(patches, count) for name, patches in features.items()}
    first = next(iter(clusters.values()))
    return {
        name: own if own is first else match_clusters(own, first) for name, own in clusters.items()
    }


def comparison_columns(
    images: ImageSet, features: Features, patch: Patch, count: int
) -> list[tuple[str, list[Panel]]]:
    """Draw components, similarity and clusters of each network.

    Args:
        images (ImageSet): Images to show.
        features (dict): Name of each network -> its features, each (B, C, h, w).
        patch (tuple): (image, row, column) on the grid of the first network.
        count (int): Number of clusters.

    Returns:
        list: Columns: a title, and one panel per image.
    """
    grid = grid_of(features)
    columns = [('image', marked_panels(images, patch, grid))]
    for name, maps in shared_pca_maps(features).items():
        columns.append((f'components\n{name}', list(map(Panel, maps))))
    for name, patches in features.items():
        heat, _ = similarity_maps(patches, patch, grid)
        columns.append((f'similarity\n{name}', list(map(Panel, heat))))
    for name, clusters in all_clusters(features, count).items():
        columns.append((f'clusters\n{name}', cluster_panels(images, clusters)))
    return columns
