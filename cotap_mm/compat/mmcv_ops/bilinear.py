"""Bilinear interpolation at points in pixels, with the borders of MMCV's operators."""

from __future__ import annotations

import torch
from torch import Tensor


def corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Indices and weights of the four pixels around each point.

    A point up to one pixel outside of the image has the value of the nearest point of the border;
    further outside the value is 0.

    Args:
        y (Tensor): Rows; row 0 is the center of the first row of pixels.
        x (Tensor): Columns, of the same shape.
        height (int): Height of the image in pixels.
        width (int): Width of the image in pixels.

    Returns:
        tuple[Tensor, Tensor]: Indices row * width + column, and weights; shape (4, *y.shape).
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    top, bottom, down = _between(y, height)
    left, right, across = _between(x, width)
    indices = torch.stack(
        [top * width + left, top * width + right, bottom * width + left, bottom * width + right]
    )
    weights = torch.stack(
        [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
    )
    return indices, weights * inside


def _between(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels before and after a position, and the share of the latter."""
    position = position.clamp(0, size - 1)
    low = position.detach().floor().long()
    return low, (low + 1).clamp(max=size - 1), position - low


def sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Interpolate an image, shape (C, H, W), at points of any shape S; returns (C, *S)."""
    indices, weights = corners(y, x, *image.shape[1:])
    seen = image.flatten(1).index_select(1, indices.flatten()).unflatten(1, indices.shape)
    return (seen * weights).sum(dim=1)  # (C, 4, *S) -> (C, *S)
