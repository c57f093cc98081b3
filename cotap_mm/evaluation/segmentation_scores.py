"""Scores of a segmentation, from a confusion matrix.

MMSegmentation's metric would do, but it needs mmcv's compiled operators, and
pre-training runs without them.
"""

from __future__ import annotations

from typing import Union

import torch
from torch import Tensor

from .label_files import IGNORE_LABEL


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
