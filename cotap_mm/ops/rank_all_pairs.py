r"""Rank statistics by comparing all pairs, in blocks: O(P^2) time, O(P) memory.

With :math:`m = 1 - (p_i - p_j) / \tau` and :math:`h = \min(\max(m, 0), 1)` the penalty is
:math:`\ell = h\,(2m - h)` and its derivative by :math:`p_i` is :math:`-2h / \tau`. All functions
take predictions in units of tau. They broadcast over leading axes.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

_BLOCK = 1 << 16  # comparisons at once; keeps the temporaries in a CPU's cache


def compare(
    y: Tensor, t: Tensor, other_y: Tensor, other_t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the others do to each pair.

    Args:
        y (Tensor): Predictions in units of tau, shape (..., I).
        t (Tensor): Targets, shape (..., I).
        other_y (Tensor): Predictions to compare with, shape (..., J).
        other_t (Tensor): Their targets, shape (..., J).

    Returns:
        tuple[Tensor, Tensor, Tensor]: Wrong mass, its derivative by the pair's own ``y``,
        and how many of the others rightly rank at or above; each (..., I).
    """
    y, t = y[..., None], t[..., None]
    other_y, other_t = other_y[..., None, :], other_t[..., None, :]
    margin = other_y - y + 1  # (..., I, J)
    inside = margin.clamp(0, 1)
    weighted = (t - other_t).clamp_min(0) * inside
    slope = -2 * weighted.sum(dim=-1)
    mass = (weighted * (2 * margin - inside)).sum(dim=-1)
    return mass, slope, ((other_t >= t) & (other_y >= y)).sum(dim=-1)


def pull(y: Tensor, t: Tensor, other_y: Tensor, other_t: Tensor, other_grad: Tensor) -> Tensor:
    """Gradient by each pair's ``y`` of the others' wrong mass, (..., I).

    Args:
        y (Tensor): Predictions in units of tau, shape (..., I).
        t (Tensor): Targets, shape (..., I).
        other_y (Tensor): Predictions of the others, shape (..., J).
        other_t (Tensor): Their targets, shape (..., J).
        other_grad (Tensor): Gradient of the loss by their wrong mass, shape (..., J).
    """
    inside = (y[..., None] - other_y[..., None, :] + 1).clamp(0, 1)
    gap = (other_t[..., None, :] - t[..., None]).clamp_min(0)
    return 2 * (gap * inside * other_grad[..., None, :]).sum(dim=-1)


def in_blocks(work: Callable, rows: tuple[Tensor, ...], columns: tuple[Tensor, ...]):
    """Call ``work`` on a few rows at a time against all columns, and join what it returns."""
    step = max(_BLOCK // max(columns[0].shape[-1], 1), 1)
    parts = [
        work(*(row[..., start : start + step] for row in rows), *columns)
        for start in range(0, rows[0].shape[-1], step)
    ]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, dim=-1)
    return tuple(torch.cat(each, dim=-1) for each in zip(*parts))
