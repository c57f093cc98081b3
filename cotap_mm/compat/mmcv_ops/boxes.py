"""Overlaps and non-maximum suppression of axis-aligned boxes (x1, y1, x2, y2)."""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from torch import Tensor

from .precision import working_dtype

_NAIVE, _LINEAR, _GAUSSIAN = range(3)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress boxes that overlap a box with a higher score.

    Args:
        boxes (Tensor): Boxes, shape (N, 4).
        scores (Tensor): Shape (N,). Equal scores are in the order of ``torch.sort``, as in MMCV.
        iou_threshold (float): Boxes with a larger intersection over union are suppressed.
        offset (int): A width is x2 - x1 + offset; 0 or 1.

    Returns:
        Tensor: Indices of the kept boxes by descending score, shape (K,).
    """
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    boxes = boxes.to(working_dtype(boxes))
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    order = scores.sort(descending=True).indices
    # torchvision sorts equal scores in another way, so it gets the ranks.
    ranks = torch.arange(len(order), 0, -1, dtype=boxes.dtype, device=boxes.device)
    # MMCV compares in float32. 0.6 is larger there, so an overlap of exactly 0.6 is kept.
    threshold = float(np.float32(iou_threshold))
    return order[torchvision.ops.nms(boxes[order], ranks, threshold)]


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Write intersections over unions to ``ious``.

    Args:
        bboxes1 (Tensor): Shape (N, 4).
        bboxes2 (Tensor): Shape (M, 4).
        ious (Tensor): Output, shape (N, M), or (N,) if aligned.
        mode (int): 0 divides by the union, 1 by the area of the box of ``bboxes1``.
        aligned (bool): Compare boxes of the same index only; N = M.
        offset (int): A width is x2 - x1 + offset.
    """
    first = bboxes1 if aligned else bboxes1[:, None]
    low = torch.maximum(first[..., :2], bboxes2[:, :2])
    high = torch.minimum(first[..., 2:], bboxes2[:, 2:])
    shared = (high - low + offset).clamp(min=0).prod(dim=-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(dim=-1)
    if mode == 0:
        area = area + (bboxes2[:, 2:] - bboxes2[:, :2] + offset).prod(dim=-1) - shared
    ious.copy_(shared / area)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap a box with a higher score, on CPU.

    The order of boxes with equal scores is that of MMCV, whose result depends on where its loop
    moves boxes: the best box changes places with the first one, and the last box replaces a
    discarded one.

    Args:
        boxes (Tensor): Shape (N, 4).
        scores (Tensor): Shape (N,).
        dets (Tensor): Output, boxes and new scores in the order of selection, shape (N, 5); rows
            after the last kept box are undefined.
        iou_threshold (float): For methods 0 and 1.
        sigma (float): For method 2.
        min_score (float): Boxes with lower scores are discarded.
        method (int): 0 sets the scores to 0, 1 multiplies by 1 - IoU, 2 by a Gaussian of the IoU.
        offset (int): A width is x2 - x1 + offset.

    Returns:
        Tensor: Indices of the kept boxes, shape (K,).
    """
    rows = torch.cat([boxes.float(), scores.float()[:, None]], dim=1).numpy()  # (N, 5), a copy
    indices = np.arange(len(rows))
    threshold, least = np.float32(iou_threshold), np.float32(min_score)
    start = 0
    while start < len(rows):
        best = start + int(rows[start:, 4].argmax())
        rows[[start, best]], indices[[start, best]] = rows[[best, start]], indices[[best, start]]
        box, others = rows[start], rows[start + 1 :]
        overlap = _overlaps(box, others, offset)
        if method == _NAIVE:
            weight = np.where(overlap >= threshold, np.float32(0), np.float32(1))
        elif method == _LINEAR:
            weight = np.where(overlap >= threshold, 1 - overlap, np.float32(1))
        elif method == _GAUSSIAN:
            weight = np.exp(-(overlap * overlap) / np.float32(sigma))
        else:
            raise ValueError(f'method of soft NMS must be 0, 1 or 2, got {method}')
        others[:, 4] *= weight
        order = start + 1 + _close_gaps(~(others[:, 4] < least))
        rows = np.concatenate([rows[: start + 1], rows[order]])
        indices = np.concatenate([indices[: start + 1], indices[order]])
        start += 1
    dets[: len(rows)] = torch.from_numpy(rows).to(dets.dtype)
    return torch.from_numpy(indices)


def _overlaps(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """Intersection over union in float32 of one box, shape (4+,), with others, shape (N, 4+)."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0]) + offset
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1]) + offset
    shared = width.clip(min=0) * height.clip(min=0)
    area = (box[2] - box[0] + offset) * (box[3] - box[1] + offset)
    areas = (others[:, 2] - others[:, 0] + offset) * (others[:, 3] - others[:, 1] + offset)
    with np.errstate(divide='ignore', invalid='ignore'):  # empty boxes overlap nothing: NaN
        return shared / (area + areas - shared)


def _close_gaps(kept: np.ndarray) -> np.ndarray:
    """Positions of the kept elements after the last ones have moved into the gaps."""
    count = int(kept.sum())
    order = np.arange(count)
    order[~kept[:count]] = count + np.flatnonzero(kept[count:])[::-1]
    return order


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes by the box that suppresses them, on CPU.

    Args:
        dets (Tensor): Boxes and scores, shape (N, 5).
        iou_threshold (float): Boxes with at least this intersection over union are suppressed.

    Returns:
        list[list[int]]: For each kept box by descending score, its index and those of the boxes
        that it suppresses.
    """
    rows = dets.float().numpy()
    left = dets[:, 4].sort(descending=True).indices.numpy()
    groups = []
    while len(left):
        kept, others = left[0], left[1:]
        same = _overlaps(rows[kept], rows[others], 0) >= np.float32(iou_threshold)
        groups.append([int(kept), *others[same].tolist()])
        left = others[~same]
    return groups
