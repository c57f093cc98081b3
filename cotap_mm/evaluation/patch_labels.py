"""From the label of each pixel to labels of patches, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .label_files import IGNORE_LABEL


def patch_labels(label: Tensor, grid: tuple[int, int], num_classes: int) -> Tensor:
    """Share of each class among the labelled pixels of each patch.

    Every pixel belongs to exactly one patch, also where the label is no multiple of the grid.

    Args:
        label (Tensor): Class indices, 255 ignored, shape (H, W).
        grid (tuple): Number of patches (h, w).
        num_classes (int): Number of classes C.

    Returns:
        Tensor: float32, shape (h * w, C). Rows sum to 1; a patch without a labelled
        pixel is all 0.

    Raises:
        ValueError: If a label is neither a class nor 255.
    """
    height, width = label.shape
    rows = torch.arange(height, device=label.device) * grid[0] // height
    columns = torch.arange(width, device=label.device) * grid[1] // width
    patch = (rows[:, None] * grid[1] + columns).flatten()  # (H * W,)
    flat = label.flatten().long()
    patch, flat = patch[flat != IGNORE_LABEL], flat[flat != IGNORE_LABEL]
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < num_classes:
        raise ValueError(
            f'labels must be 0..{num_classes - 1} or {IGNORE_LABEL} (ignored), got '
            f'{int(flat.min())}..{int(flat.max())}; check num_classes'
        )
    size = grid[0] * grid[1]
    counts = torch.bincount(patch * num_classes + flat, minlength=size * num_classes)
    counts = counts.view(size, num_classes).float()
    return counts / counts.sum(dim=1, keepdim=True).clamp_min(1)


def label_from_shares(shares: Tensor, size: Sequence[int]) -> Tensor:
    """The class of each pixel from class shares of patches.

    Args:
        shares (Tensor): Shape (K, h, w).
        size (sequence): Pixels (H, W); shares are resized bilinearly.

    Returns:
        Tensor: int64, shape (H, W).
    """
    large = F.interpolate(shares[None], tuple(size), mode='bilinear', align_corners=False)
    return large[0].argmax(dim=0)
