"""Pictures of patch features: principal components and similarity."""

from __future__ import annotations

from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor

from .canvas import (
    INK,
    PANEL,
    Pixels,
    check_pixels,
    colorize,
    frame_patch,
    new_figure,
    render,
    resize,
    show,
    styled,
)


def pca_maps(
    patches: Tensor, size: Optional[tuple[int, int]] = None, foreground: Optional[Tensor] = None
) -> list[Pixels]:
    """First three principal components of patch features as red, green and blue.

    One joint PCA for all images, so that equal colours mean similar features across
    images. Each component is spread from its 1 % to its 99 % quantile. The sign of
    a component is fixed (its largest weight is positive), so results repeat.

    Args:
        patches (Tensor): Features of B images, shape (B, C, h, w), C >= 3.
        size (tuple, optional): Enlarge to (height, width) pixels, in square cells.
            Defaults to None, one pixel for each patch.
        foreground (Tensor, optional): Bool, shape (B, h, w): PCA of these patches only, the
            others are black. Defaults to None (all).

    Returns:
        list: B arrays, uint8, shape (h, w, 3) or (*size, 3).

    Raises:
        ValueError: If the shape differs, or fewer than 3 patches are foreground.
    """
    if patches.ndim != 4 or patches.shape[1] < 3:
        raise ValueError(f'patches must have shape (B, C >= 3, h, w), got {tuple(patches.shape)}')
    features = patches.detach().double().cpu().permute(0, 2, 3, 1)  # (B, h, w, C)
    shown = torch.ones(features.shape[:3], dtype=torch.bool)
    if foreground is not None:
        shown = foreground.cpu()
    used = features[shown]  # (N, C)
    if len(used) < 3:
        raise ValueError(f'PCA needs at least 3 patches, got {len(used)} in the foreground')
    used = used - used.mean(dim=0)
    axes = torch.linalg.eigh(used.T @ used).eigenvectors[:, -3:].flip(1)  # (C, 3), largest first
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    parts = used @ axes  # (N, 3)
    low, high = parts.quantile(torch.tensor([0.01, 0.99]).double(), dim=0)
    rgb = torch.zeros(*features.shape[:3], 3, dtype=torch.double)
    rgb[shown] = ((parts - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    maps = list((rgb * 255).round().to(torch.uint8).numpy())
    return maps if size is None else [resize(each, size) for each in maps]


def similarity_map(
    patches: Tensor, patch: tuple[int, int], other: Optional[Tensor] = None
) -> np.ndarray:
    """Cosine of one patch to every patch of the same or of another image.

    Args:
        patches (Tensor): Features of the image, shape (C, h, w).
        patch (tuple): (row, column) of the chosen patch.
        other (Tensor, optional): Features of another image, shape (C, h2, w2). Defaults
            to None (the same image).

    Returns:
        np.ndarray: float, shape (h, w) or (h2, w2), in [-1, 1].

    Raises:
        ValueError: If the patch is outside the grid.
    """
    rows, columns = patches.shape[1:]
    if not (0 <= patch[0] < rows and 0 <= patch[1] < columns):
        raise ValueError(f'patch must be inside the {rows} x {columns} grid, got {tuple(patch)}')
    chosen = F.normalize(patches[:, patch[0], patch[1]].double(), dim=0)  # (C,)
    target = F.normalize((patches if other is None else other).double(), dim=0)  # (C, h, w)
    return torch.einsum('c,chw->hw', chosen, target).clamp(-1, 1).cpu().numpy()


@styled
def similarity_figure(
    image: Pixels,
    neighbor: Pixels,
    patch: tuple[int, int],
    features: dict[str, tuple[Tensor, Tensor]],
    title: Optional[str] = None,
) -> Pixels:
    """Similarity of one patch to its image and to a neighbour image, one row a network.

    A row has its own colour scale, from the smallest similarity in it to 1: networks
    differ in how large their cosines are, and only the order matters.

    Args:
        image (np.ndarray): uint8, shape (H, W, 3).
        neighbor (np.ndarray): uint8, shape (H2, W2, 3).
        patch (tuple): (row, column) of the chosen patch, on the grid of the features.
        features (dict): Name of the row -> features of image and neighbour, each (C, h, w).
        title (str, optional): Above everything. Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    images = [check_pixels(image, 'image'), check_pixels(neighbor, 'neighbor')]
    count = len(features)
    figure = new_figure(4 * PANEL + 1.8, count * (PANEL + 0.05) + 0.7)
    grid = figure.subplots(count, 4, squeeze=False)
    titles = ('chosen patch', 'similarity here', 'neighbour image', 'similarity there')
    for r, (name, (own, other)) in enumerate(features.items()):
        maps = [similarity_map(own, patch), similarity_map(own, patch, other)]
        low = min(each.min() for each in maps)
        for side in (0, 1):
            show(grid[r][2 * side], images[side], titles[2 * side] if r == 0 else None)
            heat = resize(colorize(maps[side], low, 1), images[side].shape[:2])
            show(grid[r][2 * side + 1], heat, titles[2 * side + 1] if r == 0 else None)
        for column in (0, 1):
            frame_patch(grid[r][column], patch, own.shape[1:], images[0].shape[:2])
        grid[r][0].set_ylabel(name, rotation=0, ha='right', va='center', labelpad=8, color=INK)
        scale = ScalarMappable(Normalize(low, 1), 'viridis')
        figure.colorbar(scale, ax=list(grid[r]), fraction=0.03, pad=0.01, label='cosine')
    if title:
        figure.suptitle(title)
    return render(figure)
