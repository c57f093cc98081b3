"""Labels of patches, and scores of a segmentation from a confusion matrix.

MMSegmentation's metric would do, but it needs mmcv's compiled operators, and
pre-training runs without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.evaluation.data.label_files import IGNORE_LABEL


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true and predicted class.

    Args:
        prediction (Tensor): Class indices, any shape.
        label (Tensor): Class indices of the same shape; 255 is left out.
        num_classes (int): Number of classes C.

    Returns:
        Tensor: int64 counts, shape (C, C): [true class, predicted class].

    Raises:
        ValueError: If a label is neither a class nor 255.
    """
    counted = label != IGNORE_LABEL
    label, prediction = label[counted].long(), prediction[counted].long()
    if label.numel() and not 0 <= int(label.min()) <= int(label.max()) < num_classes:
        raise ValueError(
            f'labels must be 0..{num_classes - 1} or {IGNORE_LABEL} (ignored), got '
            f'{int(label.min())}..{int(label.max())}; check num_classes'
        )
    flat = torch.bincount(label * num_classes + prediction, minlength=num_classes**2)
    return flat.view(num_classes, num_classes)


def segmentation_scores(confusion: Tensor) -> dict[str, Union[float, list[float]]]:
    """Mean IoU, IoU per class and pixel accuracy, in per cent.

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
