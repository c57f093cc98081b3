r"""Rank statistics by sorting, as two-dimensional dominance sums: O(P log P) time, O(P) memory.

In units of tau, :math:`y = p / \tau`, the penalty is a polynomial on each side of
:math:`y_j = y_i`:

.. math:: \ell = (y_j - y_i + 1)^2 \text{ for } y_i - 1 < y_j \le y_i, \quad
          \ell = 1 + 2 (y_j - y_i) \text{ for } y_j > y_i,

so :math:`\sum_j (t_i - t_j)_+ \ell` needs the sums of :math:`1, y, y^2, t, ty, ty^2` over the
items with a smaller target and a prediction in an interval. Items sorted by target are the leaves
of a binary tree whose nodes hold their items sorted by prediction. One level at a time, running
sums over the left children answer the queries of all their right siblings. The rank of an item in
a child follows from its rank in the parent by counting, so nothing is sorted below the root (a
wavelet tree). Leaves of a few items are compared pairwise.

Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.ops.ranking.rank_pairwise import pairwise_gradient, pairwise_statistics

_LEAF = 32  # maximum number of items in a leaf
_COMPARISONS = dict(cpu=1 << 16)  # pairwise comparisons at once; fits a CPU's cache
_COMPARISONS_ELSEWHERE = 1 << 22


class SortedItems(NamedTuple):
    """P items sorted by (target, prediction), padded to Q items in leaves of equal size."""

    order: Tensor  # (P,) indices into the input
    y: Tensor  # (Q,) predictions in units of tau
    t: Tensor  # (Q,) targets
    by_pred: Tensor  # (Q,) indices in ascending order of (prediction, target); padding first

    @property
    def num_leaves(self) -> int:
        """Number of leaves, a power of two."""
        return _num_leaves(len(self.order))


def _num_leaves(count: int) -> int:
    return 1 << max(-(-count // _LEAF) - 1, 0).bit_length()


def sort_items(pred: Tensor, target: Tensor, tau: float) -> SortedItems:
    """Sort a list for :func:`sorted_statistics` and :func:`sorted_gradient`.

    Args:
        pred (Tensor): Predictions, shape (P,) with P >= 1.
        target (Tensor): Targets, shape (P,).
        tau (float): Unit of the predictions, > 0.

    Returns:
        SortedItems: The list in float64.
    """
    padding = -len(pred) % _num_leaves(len(pred))
    pred, target = pred.double(), target.double()
    order = pred.argsort()
    order = order[target[order].argsort(stable=True)]
    # Running sums lose the fewest digits around the middle.
    y, t = ((x - x.mean())[order] for x in (pred / tau, target))
    by_pred = y.argsort(stable=True)
    if padding:
        # Largest target, by far the smallest prediction: contributes nothing to other items.
        y = torch.cat([y, (y.min() - 2).expand(padding)])
        t = torch.cat([t, t.max().expand(padding)])
        last = torch.arange(len(y) - padding, len(y), device=y.device)
        by_pred = torch.cat([last, by_pred])
    return SortedItems(order, y, t, by_pred)


class Level(NamedTuple):
    """Nodes of one level of the tree, each with a left and a right child of L items.

    Every field counts items by ascending prediction and so indexes (nodes, L + 1) running sums.
    """

    nodes: int
    rank: Tensor  # (nodes, 2, L) items of the sibling below each item
    bound: Tensor  # (nodes, 2, L) items of the sibling below the bound of each item
    within: Tensor  # (nodes, 2, L) items of its own child below each item


def _levels(items: SortedItems, bound: Tensor) -> Iterator[Level]:
    """Walk the tree from the root down to the leaves.

    Args:
        items (SortedItems): Q items.
        bound (Tensor): Number of items with a prediction below the bound of each item, (Q,).

    Yields:
        Level: Counts within the nodes of one level.
    """
    size = len(bound)
    rank = torch.empty_like(items.by_pred)
    rank[items.by_pred] = torch.arange(size, device=rank.device)
    nodes = 1
    while nodes < items.num_leaves:
        width = size // nodes
        start = torch.arange(nodes, device=rank.device)[:, None]
        rank, bound = rank.view(nodes, width), bound.view(nodes, width)
        is_left = torch.zeros(nodes, width + 1, dtype=torch.uint8, device=rank.device)
        left_ranks = rank[:, : width // 2] + start * (width + 1) + 1
        # Not is_left.view(-1)[left_ranks] = 1, which copies the 1 to a GPU and synchronizes.
        is_left.view(-1).scatter_(0, left_ranks.flatten(), 1)
        count = is_left.cumsum(dim=1).view(-1)  # left items below each rank
        left_rank = count[rank + start * (width + 1)]
        left_bound = count[bound + start * (width + 1)]

        def split(left: Tensor, all_: Tensor) -> tuple[Tensor, Tensor]:
            """Items of the sibling and of the own child below, (nodes, 2, L) each."""
            left, right = left.unflatten(1, (2, -1)), (all_ - left).unflatten(1, (2, -1))
            return (
                torch.stack([right[:, 0], left[:, 1]], dim=1),
                torch.stack([left[:, 0], right[:, 1]], dim=1),
            )

        siblings, within = split(left_rank, rank)
        sibling_bound, bound = split(left_bound, bound)
        yield Level(nodes, siblings, sibling_bound, within)
        rank = within
        nodes *= 2


def _running_sums(values: list[Tensor], within: Tensor) -> list[Tensor]:
    """Sum the values of a child over its items below each rank.

    Args:
        values (list[Tensor]): Values of the items of one child of each node, (nodes, L) each.
        within (Tensor): Ranks of these items in the child, (nodes, L).

    Returns:
        list[Tensor]: Exclusive running sums by ascending prediction, shape (nodes, L + 1) each.
    """
    nodes, width = within.shape
    flat = within + torch.arange(nodes, device=within.device)[:, None] * width
    sums = []
    for value in values:
        ordered = torch.empty_like(value)
        ordered.view(-1)[flat] = value
        sums.append(F.pad(ordered.cumsum(dim=1), (1, 0)))
    return sums


def sorted_statistics(items: SortedItems) -> tuple[Tensor, Tensor, Tensor]:
    """Discordance and concordant rank of each item.

    Args:
        items (SortedItems): P items.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Discordance, its derivative with respect to the item's own
        ``y``, and the concordant rank; (P,) each, in sorted order.
    """
    y, t = items.y, items.t
    ascending = y[items.by_pred]
    bound = torch.empty_like(items.by_pred)
    bound[items.by_pred] = torch.searchsorted(ascending, ascending - 1, right=True)
    discordance, slope, concordant = _in_leaves(pairwise_statistics, items.num_leaves, y, t, y, t)
    for level in _levels(items, bound):
        left_y, right_y = y.view(level.nodes, 2, -1).unbind(1)
        left_t, right_t = t.view(level.nodes, 2, -1).unbind(1)
        width = left_y.shape[1]
        concordant.view(level.nodes, 2, -1)[:, 0] += width - level.rank[:, 0]

        sums = _running_sums(
            [left_y, left_y**2, left_t, left_t * left_y, left_t * left_y**2], level.within[:, 0]
        )
        rank, bound = level.rank[:, 1], level.bound[:, 1]
        at_rank, at_bound = _look_up(sums, rank), _look_up(sums, bound)
        # Items less than one tau below the item: (t_i - t_j) (y_j + a)^2.
        n = (rank - bound).to(y.dtype)
        y1, y2, t0, ty1, ty2 = (near - far for near, far in zip(at_rank, at_bound))
        a = 1 - right_y
        own = right_t * (y2 + a * (2 * y1 + a * n)) - (ty2 + a * (2 * ty1 + a * t0))
        own_slope = right_t * (y1 + a * n) - (ty1 + a * t0)
        # Items above the item: (t_i - t_j) (1 + 2 (y_j - y_i)).
        n = (width - rank).to(y.dtype)
        y1, _, t0, ty1, _ = (total[:, -1:] - below for total, below in zip(sums, at_rank))
        b = 1 - 2 * right_y
        own += right_t * (2 * y1 + b * n) - (2 * ty1 + b * t0)
        own_slope += right_t * n - t0
        discordance.view(level.nodes, 2, -1)[:, 1] += own
        slope.view(level.nodes, 2, -1)[:, 1] -= 2 * own_slope
    # Of items equal in target and prediction, only the first has counted the others, which follow.
    same = (y[1:] == y[:-1]) & (t[1:] == t[:-1])
    first = torch.arange(len(y), device=y.device)
    first[1:].masked_fill_(same, 0)
    concordant = concordant[first.cummax(dim=0).values]
    count = len(items.order)
    return discordance[:count], slope[:count], concordant[:count]


def sorted_gradient(items: SortedItems, grad: Tensor) -> Tensor:
    """Gradient through the discordance of the other items.

    Args:
        items (SortedItems): P items.
        grad (Tensor): Gradient of the loss with respect to the discordance, float64 (P,), in
            sorted order.

    Returns:
        Tensor: Gradient with respect to ``y``, (P,), in sorted order.
    """
    y, t = items.y, items.t
    grad = F.pad(grad, (0, len(y) - len(grad)))
    ascending = y[items.by_pred]
    bound = torch.empty_like(items.by_pred)
    bound[items.by_pred] = torch.searchsorted(ascending, ascending + 1)
    result = _in_leaves(pairwise_gradient, items.num_leaves, y, t, y, t, grad)
    for level in _levels(items, bound):
        left_y, right_y = y.view(level.nodes, 2, -1).unbind(1)
        left_t, right_t = t.view(level.nodes, 2, -1).unbind(1)
        right_grad = grad.view(level.nodes, 2, -1)[:, 1]
        sums = _running_sums(
            [
                right_grad,
                right_grad * right_y,
                right_grad * right_t,
                right_grad * right_t * right_y,
            ],
            level.within[:, 1],
        )
        at_rank, at_bound = _look_up(sums, level.rank[:, 0]), _look_up(sums, level.bound[:, 0])
        # Items less than one tau above the item: (t_i - t_k) (b - y_i).
        g, gy, gt, gty = (far - near for far, near in zip(at_bound, at_rank))
        b = left_y + 1
        own = b * gt - gty - left_t * (b * g - gy)
        # Items below the item: (t_i - t_k).
        g, _, gt, _ = at_rank
        own += gt - left_t * g
        result.view(level.nodes, 2, -1)[:, 0] += 2 * own
    return result[: len(items.order)]


def _look_up(sums: list[Tensor], index: Tensor) -> list[Tensor]:
    """Read running sums (nodes, L + 1) at ranks (nodes, L)."""
    width = sums[0].shape[1]
    flat = index + torch.arange(len(index), device=index.device)[:, None] * width
    return [values.view(-1)[flat] for values in sums]


def _in_leaves(function: Callable, num_leaves: int, *values: Tensor):
    """Call ``function`` on blocks of leaves and concatenate the results.

    Args:
        function (Callable): Takes tensors (leaves, items in a leaf).
        num_leaves (int): Leaves in total.
        *values (Tensor): Arguments of ``function`` for all Q items, (Q,) each.

    Returns:
        Tensor | tuple[Tensor, ...]: Shape (Q,) each.
    """
    values = tuple(value.view(num_leaves, -1) for value in values)
    size = values[0].shape[1]
    limit = _COMPARISONS.get(values[0].device.type, _COMPARISONS_ELSEWHERE)
    blocks = zip(*(value.split(max(limit // size**2, 1)) for value in values))
    parts = [function(*block) for block in blocks]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts).view(-1)
    return tuple(torch.cat(part).view(-1) for part in zip(*parts))
