"""Class shares of patches, and segmentation scores from a confusion matrix.

MMSegmentation's metric is not used because it needs mmcv's compiled operators, which
pre-training does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.evaluation.data.label_files import IGNORE_LABEL, check_label_range


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true and predicted class.

    Args:
        prediction (Tensor): Class indices, any shape.
        label (Tensor): Class indices of the same shape; 255 is ignored.
        num_classes (int): Number of classes C.

    Returns:
        Tensor: int64 counts, shape (C, C): [true class, predicted class].

    Raises:
        ValueError: If a label is out of range.
    """
    check_label_range(label, num_classes)
    label = label.int()
    index = label * num_classes + prediction.int()
    return _count_known(index, label, num_classes**2).view(num_classes, num_classes)


def segmentation_scores(confusion: Tensor) -> dict[str, Union[float, list[float]]]:
    """Mean IoU, IoU per class and pixel accuracy, in percent.

    Args:
        confusion (Tensor): Counts [true class, predicted class], shape (C, C).

    Returns:
        dict: ``mIoU`` (float: mean over the classes that occur in labels or predictions),
        ``IoU`` (list of C floats, NaN for a class that never occurs) and ``aAcc`` (float).
    """
    counts = confusion.double()
    hits = counts.diag()
    union = counts.sum(0) + counts.sum(1) - hits
    iou = 100 * hits / union  # 0 / 0 is NaN: a class that never occurs
    accuracy = 100 * hits.sum() / counts.sum()
    return dict(mIoU=iou.nanmean().item(), IoU=iou.tolist(), aAcc=accuracy.item())


def pixel_counts(label: Tensor, grid: Sequence[int], num_classes: int) -> Tensor:
    """Count the pixels of each class in each patch.

    Each pixel belongs to exactly one patch, even if the label is not a multiple of the grid.

    Args:
        label (Tensor): Class indices, 255 ignored, shape (H, W).
        grid (sequence): Number of patches (h, w).
        num_classes (int): Number of classes C.

    Returns:
        Tensor: int64, shape (h * w, C).

    Raises:
        ValueError: If a label is out of range.
    """
    check_label_range(label, num_classes)
    height, width = label.shape
    size = grid[0] * grid[1]
    kind = torch.int32 if size * num_classes < 2**31 else torch.int64
    label = label.to(kind)
    rows = (torch.arange(height, device=label.device) * grid[0] // height).to(kind)
    columns = (torch.arange(width, device=label.device) * grid[1] // width).to(kind)
    patch = rows[:, None] * grid[1] + columns  # (H, W)
    counts = _count_known(patch * num_classes + label, label, size * num_classes)
    return counts.view(size, num_classes)


def _count_known(index: Tensor, label: Tensor, size: int) -> Tensor:
    """Count each index below ``size`` at pixels that are not ignored, (size,)."""
    # Ignored pixels get a bin of their own, which takes less time than selecting the others.
    index = index.masked_fill(label == IGNORE_LABEL, size).flatten()
    return torch.bincount(index, minlength=size + 1)[:-1]


def patch_labels(label: Tensor, grid: Sequence[int], num_classes: int) -> Tensor:
    """Share of each class among the labeled pixels of each patch.

    Args:
        label (Tensor): Class indices, 255 ignored, shape (H, W).
        grid (sequence): Number of patches (h, w).
        num_classes (int): Number of classes C.

    Returns:
        Tensor: float32, shape (h * w, C). Rows sum to 1; the row of a patch without a labeled
        pixel is 0.

    Raises:
        ValueError: If a label is out of range.
    """
    counts = pixel_counts(label, grid, num_classes).float()
    return counts / counts.sum(dim=1, keepdim=True).clamp_min(1)


def label_from_shares(shares: Tensor, size: Sequence[int]) -> Tensor:
    """Predict the class of each pixel from class shares of patches.

    Args:
        shares (Tensor): Class shares, shape (K, h, w); resized bilinearly.
        size (sequence): Height and width of the result in pixels.

    Returns:
        Tensor: int64, shape (H, W).
    """
    large = F.interpolate(shares[None], tuple(size), mode='bilinear', align_corners=False)
    return best_class(large[0])


def best_class(scores: Tensor) -> Tensor:
    """Index of the highest score of each pixel, the first one of equal scores.

    It equals ``argmax``, which takes 5 times as long for maps on a CPU (torch 2.11, 11 classes).

    Args:
        scores (Tensor): Shape (K, H, W).

    Returns:
        Tensor: int64, shape (H, W).
    """
    return scores.max(dim=0).indices
