"""Principal components of patch features as colors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import Pixels, resize

_QUANTILES = (0.01, 0.99)  # of a component: black and full color


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
    features = _patch_rows(patches)  # (B, h, w, C)
    shown = torch.ones(features.shape[:3], dtype=torch.bool)
    if foreground is not None:
        shown = foreground.cpu()
    used = features[shown]  # (N, C)
    if len(used) < 3:
        raise ValueError(f'PCA needs at least 3 patches, got {len(used)} in the foreground')
    used = used - used.mean(dim=0)
    rgb = torch.zeros(*features.shape[:3], 3, dtype=torch.double)
    rgb[shown] = _stretch(used @ _axes(used))
    maps = list((rgb * 255).round().to(torch.uint8).numpy())
    return maps if size is None else [resize(pixels, size) for pixels in maps]


def shared_pca_maps(features: Mapping[str, Tensor]) -> dict[str, list[Pixels]]:
    """Show the first three components of the features of several networks as colors.

    Networks with as many channels as the first one share its basis: features are scaled to unit
    length, the mean of each network is subtracted, and one PCA is computed over all of them. A
    network with another number of channels cannot be projected to that basis: it has its own
    PCA, whose three components are rotated (orthogonal Procrustes) to agree as well as possible
    with the components of the first network at the same location.

    Args:
        features (mapping): Name of each network -> features of the same B images, each
            (B, C, h, w) with C >= 3 and any grid.

    Returns:
        dict: Name of each network -> B arrays, uint8, each (h, w, 3). See :func:`basis_note`
            for what can be compared.

    Raises:
        ValueError: If a shape is wrong.
    """
    names = list(features)
    if len(names) == 1:
        return {names[0]: pca_maps(features[names[0]])}
    rows = {name: _centered(_patch_rows(maps)) for name, maps in features.items()}
    channels = rows[names[0]].shape[-1]
    sharing = [name for name in names if rows[name].shape[-1] == channels]
    # Networks with fine grids have more patches, but not more weight.
    axes = _axes(
        torch.cat([rows[n].flatten(0, 2) / len(rows[n].flatten(0, 2)) ** 0.5 for n in sharing])
    )
    parts = {name: rows[name] @ axes for name in sharing}  # (B, h, w, 3)
    reference = parts[names[0]]
    for name in names:
        if name not in parts:
            own = rows[name] @ _axes(rows[name].flatten(0, 2))
            parts[name] = _rotate(own, reference)
    return {
        name: list((_stretch(parts[name]) * 255).round().to(torch.uint8).numpy()) for name in names
    }


def _patch_rows(patches: Tensor) -> Tensor:
    """Check features (B, C, h, w) and return them as (B, h, w, C), float64."""
    if patches.ndim != 4 or patches.shape[1] < 3:
        raise ValueError(f'patches must have shape (B, C >= 3, h, w), got {tuple(patches.shape)}')
    return patches.detach().double().cpu().permute(0, 2, 3, 1)


def _centered(rows: Tensor) -> Tensor:
    """Scale features (B, h, w, C) to unit length and subtract their mean."""
    rows = F.normalize(rows, dim=-1)
    return rows - rows.mean(dim=(0, 1, 2))


def _axes(rows: Tensor) -> Tensor:
    """Return the first three axes (C, 3) of centered rows (N, C), signs fixed."""
    axes = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -3:].flip(1)  # largest first
    return axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()


def _stretch(parts: Tensor) -> Tensor:
    """Stretch each component (..., 3) to 0..1, without its outermost 1 % at both ends."""
    ends = torch.tensor(_QUANTILES).double()
    low, high = parts.flatten(0, -2).quantile(ends, dim=0)
    return ((parts - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)


def _rotate(parts: Tensor, reference: Tensor) -> Tensor:
    """Rotate components (B, h, w, 3) to agree with a reference (B, h2, w2, 3)."""
    grid = [int(side) for side in parts.shape[1:3]]
    target = F.interpolate(reference.permute(0, 3, 1, 2), size=grid, mode='area')
    left, right = parts.flatten(0, 2), target.permute(0, 2, 3, 1).flatten(0, 2)
    u, _, vh = torch.linalg.svd(left.T @ right)
    return parts @ (u @ vh)


def basis_note(channels: Mapping[str, int]) -> str:
    """Explain which colors of :func:`shared_pca_maps` can be compared between networks.

    Args:
        channels (mapping): Name of each network -> number of channels of its features.

    Returns:
        str: One or two sentences; '' for one network.
    """
    # Titles may have several lines and commas, such as 'before,\nfilter'.
    line = {name: ' '.join(name.replace(',', ' ').split()) for name in channels}
    first, *others = channels
    sharing = [name for name in channels if channels[name] == channels[first]]
    own = [name for name in others if name not in sharing]
    sentences = []
    if len(sharing) > 1:
        sentences.append(
            f'{", ".join(line[name] for name in sharing)} share one basis ({channels[first]} '
            'channels), so equal colors mean similar features in all of these rows.'
        )
    if own:
        names = ', '.join(f'{line[name]} ({channels[name]} channels)' for name in own)
        sentences.append(
            f'{names} cannot share the basis of {line[first]} ({channels[first]} channels): its '
            'axes have another length. Each such row has a basis of its own, rotated so that its '
            'colors agree as well as possible with the first row; compare shapes, not colors.'
        )
    return ' '.join(sentences)
