"""Principal components of patch features as colors."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from .canvas import Pixels, resize


def pca_maps(
    patches: Tensor, size: Optional[tuple[int, int]] = None, foreground: Optional[Tensor] = None
) -> list[Pixels]:
    """Show the first three principal components of patch features as red, green and blue.

    All images share one PCA, so equal colors mean similar features across images. Each
    component is stretched from its 1 % quantile to its 99 % quantile. The sign of a component
    is fixed (its largest weight is positive), so results are reproducible.

    Args:
        patches (Tensor): Features of B images, shape (B, C, h, w), C >= 3.
        size (tuple, optional): Enlarge to (height, width) pixels, in square cells.
            Defaults to None, one pixel for each patch.
        foreground (Tensor, optional): Bool mask, shape (B, h, w). The PCA uses only these
            patches; all others are black. Defaults to None (all patches).

    Returns:
        list: B arrays, uint8, shape (h, w, 3) or (*size, 3).

    Raises:
        ValueError: If the shape is wrong, or fewer than 3 patches are foreground.
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
    return maps if size is None else [resize(pixels, size) for pixels in maps]
