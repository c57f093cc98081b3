r"""Rank statistics by comparing every item with every other one: O(P^2) time, O(P) memory.

With :math:`m = 1 - (p_i - p_j) / \tau` and :math:`h = \min(\max(m, 0), 1)` the penalty is
:math:`\ell = h\,(2m - h)` and its derivative with respect to :math:`p_i` is :math:`-2h / \tau`.
All functions take predictions in units of tau and broadcast over leading axes.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

_BLOCK = 1 << 16  # comparisons at once; keeps the temporaries in a CPU's cache


def pairwise_statistics(
    y: Tensor, t: Tensor, other_y: Tensor, other_t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Discordance and concordant rank of each item among the other items.

    Args:
        y (Tensor): Predictions in units of tau, shape (..., I).
        t (Tensor): Targets, shape (..., I).
        other_y (Tensor): Predictions to compare with, shape (..., J).
        other_t (Tensor): Targets to compare with, shape (..., J).

    Returns:
        tuple[Tensor, Tensor, Tensor]: Discordance, its derivative with respect to the item's own
        ``y``, and the number of other items that rank at or above the item in both prediction
        and target; shape (..., I) each.
    """
    y, t = y[..., None], t[..., None]
    other_y, other_t = other_y[..., None, :], other_t[..., None, :]
    margin = other_y - y + 1  # (..., I, J)
    inside = margin.clamp(0, 1)
    weighted = (t - other_t).clamp_min(0) * inside
    slope = -2 * weighted.sum(dim=-1)
    discordance = (weighted * (2 * margin - inside)).sum(dim=-1)
    return discordance, slope, ((other_t >= t) & (other_y >= y)).sum(dim=-1)


def pairwise_gradient(
    y: Tensor, t: Tensor, other_y: Tensor, other_t: Tensor, other_grad: Tensor
) -> Tensor:
    """Gradient through the discordance of the other items.

    Args:
        y (Tensor): Predictions in units of tau, shape (..., I).
        t (Tensor): Targets, shape (..., I).
        other_y (Tensor): Predictions of the other items, shape (..., J).
        other_t (Tensor): Targets of the other items, shape (..., J).
        other_grad (Tensor): Gradient of the loss with respect to the discordance of the other
            items, shape (..., J).

    Returns:
        Tensor: Gradient with respect to ``y``, shape (..., I).
    """
    inside = (y[..., None] - other_y[..., None, :] + 1).clamp(0, 1)
    gap = (other_t[..., None, :] - t[..., None]).clamp_min(0)
    return 2 * (gap * inside * other_grad[..., None, :]).sum(dim=-1)


def in_blocks(function: Callable, rows: tuple[Tensor, ...], columns: tuple[Tensor, ...]):
    """Call ``function`` on a block of rows at a time against all columns.

    Args:
        function (Callable): :func:`pairwise_statistics` or :func:`pairwise_gradient`.
        rows (tuple[Tensor, ...]): Arguments that are split, shape (..., I) each.
        columns (tuple[Tensor, ...]): Arguments that are passed as a whole, shape (..., J) each.

    Returns:
        Tensor | tuple[Tensor, ...]: Concatenated results, shape (..., I) each.
    """
    step = max(_BLOCK // max(columns[0].shape[-1], 1), 1)
    parts = [
        function(*(row[..., start : start + step] for row in rows), *columns)
        for start in range(0, rows[0].shape[-1], step)
    ]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, dim=-1)
    return tuple(torch.cat(part, dim=-1) for part in zip(*parts))
