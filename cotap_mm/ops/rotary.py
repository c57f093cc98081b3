"""Two-dimensional rotary position embedding (RoPE) of patches."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .precision import at_least_float32


class Rotation(NamedTuple):
    """Cosine and sine of the angles by which queries and keys of patches are rotated.

    Attributes:
        cos (Tensor): Shape (..., N, c), c channels of a head, broadcast over batch and heads.
        sin (Tensor): Same shape.
    """

    cos: Tensor
    sin: Tensor


def patch_rotation(grid: tuple[int, int], periods: Tensor) -> Rotation:
    """Compute the rotation of each patch of a grid.

    The coordinates of a patch are those of its center, scaled to [-1, 1] along each side of the
    image. Each period gives one angle for the row and one for the column; the angles repeat in the
    second half of the channels.

    Source: DINOv3, https://arxiv.org/abs/2508.10104, as in transformers' ``DINOv3ViTModel``.

    Args:
        grid (tuple[int, int]): H, W.
        periods (Tensor): Periods in units of the coordinates, shape (c/4,).

    Returns:
        Rotation: ``cos`` and ``sin``, each (H*W, c), at least float32.
    """
    precise = at_least_float32(periods)
    rows, columns = (
        (torch.arange(count, device=precise.device, dtype=precise.dtype) + 0.5) / count * 2 - 1
        for count in grid
    )
    coordinates = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), dim=-1).flatten(0, 1)
    angles = 2 * math.pi * coordinates[:, :, None] / precise  # (N, 2, c/4)
    angles = angles.flatten(1).repeat(1, 2)  # (N, c)
    return Rotation(angles.cos(), angles.sin())


def rotate_patches(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate queries or keys of patches; those of CLS and registers, which come first, stay.

    Args:
        x (Tensor): Queries or keys, shape (B, heads, P + N, c).
        rotation (Rotation): Of the N patches.

    Returns:
        Tensor: Same shape and type, computed in at least float32.
    """
    count = rotation.cos.shape[-2]
    prefix, patches = x[:, :, : x.shape[2] - count], x[:, :, x.shape[2] - count :]
    precise = at_least_float32(patches)
    first, second = precise.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    rotated = precise * rotation.cos + turned * rotation.sin
    return torch.cat([prefix, rotated.to(x.dtype)], dim=2)
