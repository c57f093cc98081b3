"""Largest feature along each border of a box (BorderDet)."""

from __future__ import annotations

import torch
from torch import Tensor

from .bilinear import corners
from .precision import working_dtype, write


def _points(boxes: Tensor, steps: Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
    """Points on the top, left, bottom and right border; steps count from x1, y1 or x2, y2.

    Args:
        boxes (Tensor): Shape (B, L, 4).
        steps (Tensor): Broadcasts to (B, L, 4, ...); 0 is the start, ``pool_size`` the end.
        pool_size (int): Steps of a border.

    Returns:
        tuple[Tensor, Tensor]: y and x in pixels, of the shape of the steps.
    """
    more = (1,) * (steps.dim() - 3)
    size = (boxes[..., 2:] - boxes[..., :2]) / pool_size  # (B, L, 2)
    zero = torch.zeros_like(size[..., 0])
    move_x = torch.stack([size[..., 0], zero, -size[..., 0], zero], dim=-1)
    move_y = torch.stack([zero, size[..., 1], zero, -size[..., 1]], dim=-1)
    start_x = boxes[..., [0, 0, 2, 2]]
    start_y = boxes[..., [1, 1, 3, 3]]
    shape = (*start_x.shape, *more)
    return (
        start_y.reshape(shape) + move_y.reshape(shape) * steps,
        start_x.reshape(shape) + move_x.reshape(shape) * steps,
    )


def border_align_forward(
    input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, pool_size: int
) -> None:
    """Write the largest interpolated feature of each border to ``output``.

    Args:
        input (Tensor): Features of the top, left, bottom and right border, shape (B, 4 * C, H, W).
        boxes (Tensor): x1, y1, x2 and y2 in pixels, shape (B, L, 4).
        output (Tensor): Output, shape (B, C, L, 4).
        argmax_idx (Tensor): Output, the steps of the largest features, of the same shape.
        pool_size (int): Steps of a border; features are compared at pool_size + 1 points.
    """
    dtype = working_dtype(input, boxes)
    features = input.to(dtype).unflatten(1, (4, -1)).flatten(3)  # (B, 4, C, H * W)
    steps = torch.arange(pool_size + 1, device=input.device).expand(1, 1, 1, -1)
    y, x = _points(boxes.to(dtype), steps, pool_size)  # (B, L, 4, P)
    indices, weights = corners(y, x, *input.shape[2:])  # (4 corners, B, L, 4, P)
    index = indices.permute(1, 3, 0, 2, 4)  # (B, 4, corners, L, P)
    weight = weights.permute(1, 3, 0, 2, 4)[:, :, None]
    flat = index.flatten(2)[:, :, None].expand(-1, -1, features.size(2), -1)
    seen = features.gather(3, flat).unflatten(3, index.shape[2:])  # (B, 4, C, corners, L, P)
    best, where = (seen * weight).sum(dim=3).max(dim=-1)  # (B, 4, C, L)
    output.copy_(best.permute(0, 2, 3, 1))
    argmax_idx.copy_(where.permute(0, 2, 3, 1))


def border_align_backward(
    grad_output: Tensor, boxes: Tensor, argmax_idx: Tensor, grad_input: Tensor, pool_size: int
) -> None:
    """Write the gradient of the features to ``grad_input``."""
    dtype = working_dtype(grad_output, boxes)
    height, width = grad_input.shape[2:]
    steps = argmax_idx.permute(0, 2, 3, 1)  # (B, C, L, 4) -> (B, L, 4, C)
    y, x = _points(boxes.to(dtype), steps, pool_size)
    indices, weights = corners(y, x, height, width)  # (4 corners, B, L, 4, C)
    grad = weights * grad_output.to(dtype).permute(0, 2, 3, 1)
    size = (len(boxes), 4, steps.size(3), height * width)
    total = torch.zeros(size, dtype=dtype, device=grad.device)
    order = (1, 3, 4, 0, 2)  # (B, 4, C, corners, L)
    total.scatter_add_(3, indices.permute(order).flatten(3), grad.permute(order).flatten(3))
    write(grad_input, total)
