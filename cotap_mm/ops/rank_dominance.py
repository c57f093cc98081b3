r"""Rank statistics by two-dimensional dominance sums: O(P log P) time, O(P) memory.

In units of tau, :math:`y = p / \tau`, the penalty is a polynomial on each side of
:math:`y_j = y_i`:

.. math:: \ell = (y_j - y_i + 1)^2 \text{ for } y_i - 1 < y_j \le y_i, \quad
          \ell = 1 + 2 (y_j - y_i) \text{ for } y_j > y_i,

so :math:`\sum_j (t_i - t_j)_+ \ell` needs the sums of :math:`1, y, y^2, t, ty, ty^2` over the
pairs with a smaller target and a prediction in an interval. Pairs in the order of their targets
are the leaves of a binary tree whose nodes hold their pairs in the order of the predictions. One
level at a time, all right children are answered by running sums over their left siblings. A
pair's place in a child follows from its place in the parent by counting, so nothing is sorted
below the root (a wavelet tree). Leaves of a few pairs compare all with all.

Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .rank_all_pairs import compare, pull

_LEAF = 32  # most pairs in a leaf
_COMPARISONS = dict(cpu=1 << 16)  # in leaves at once: what fits a CPU's cache
_COMPARISONS_ELSEWHERE = 1 << 22


class SortedPairs(NamedTuple):
    """P pairs in ascending order of (target, prediction), padded to Q in equal leaves."""

    order: Tensor  # (P,) of the input
    y: Tensor  # (Q,) predictions in units of tau
    t: Tensor  # (Q,) targets
    by_pred: Tensor  # (Q,) order of ascending (prediction, target); padding first

    @property
    def num_leaves(self) -> int:
        """A power of two."""
        return _num_leaves(len(self.order))


def _num_leaves(count: int) -> int:
    return 1 << max(-(-count // _LEAF) - 1, 0).bit_length()


def sort_pairs(pred: Tensor, target: Tensor, tau: float) -> SortedPairs:
    """Sort P >= 1 pairs for :func:`forward` and :func:`backward`."""
    padding = -len(pred) % _num_leaves(len(pred))
    pred, target = pred.double(), target.double()
    order = pred.argsort()
    order = order[target[order].argsort(stable=True)]
    # Running sums lose the fewest digits around the middle.
    y, t = ((x - x.mean())[order] for x in (pred / tau, target))
    by_pred = y.argsort(stable=True)
    if padding:
        # Above all in target and far below all in prediction: outranks nobody, wants nothing.
        y = torch.cat([y, (y.min() - 2).expand(padding)])
        t = torch.cat([t, t.max().expand(padding)])
        last = torch.arange(len(y) - padding, len(y), device=y.device)
        by_pred = torch.cat([last, by_pred])
    return SortedPairs(order, y, t, by_pred)


class Level(NamedTuple):
    """One level's nodes, each with a left and a right child of L pairs.

    Indices point into (nodes, L + 1) running sums, flattened.
    """

    nodes: int
    place: Tensor  # (nodes, 2, L) siblings in front of each pair, by prediction
    bound: Tensor  # (nodes, 2, L) siblings in front of its bound
    within: Tensor  # (nodes, 2, L) place of each pair in its child


def _levels(pairs: SortedPairs, bound: Tensor) -> Iterator[Level]:
    """Walk the tree from the root down to the leaves.

    Args:
        pairs (SortedPairs): Q pairs.
        bound (Tensor): For each pair how many pairs have a prediction below its bound, (Q,).
    """
    size = len(bound)
    place = torch.empty_like(pairs.by_pred)
    place[pairs.by_pred] = torch.arange(size, device=place.device)
    nodes = 1
    while nodes < pairs.num_leaves:
        width = size // nodes
        start = torch.arange(nodes, device=place.device)[:, None]
        place, bound = place.view(nodes, width), bound.view(nodes, width)
        is_left = torch.zeros(nodes, width + 1, dtype=torch.uint8, device=place.device)
        lefts = place[:, : width // 2] + start * (width + 1) + 1
        # Not is_left.view(-1)[lefts] = 1, which copies the 1 to a GPU and waits for it.
        is_left.view(-1).scatter_(0, lefts.flatten(), 1)
        count = is_left.cumsum(dim=1).view(-1)  # lefts in front of each place
        left_place = count[place + start * (width + 1)]
        left_bound = count[bound + start * (width + 1)]

        def split(left: Tensor, all_: Tensor) -> tuple[Tensor, Tensor]:
            """Siblings in front, and own kind in front, (nodes, 2, L) each."""
            left, right = left.unflatten(1, (2, -1)), (all_ - left).unflatten(1, (2, -1))
            return (
                torch.stack([right[:, 0], left[:, 1]], dim=1),
                torch.stack([left[:, 0], right[:, 1]], dim=1),
            )

        siblings, within = split(left_place, place)
        sibling_bound, bound = split(left_bound, bound)
        yield Level(nodes, siblings, sibling_bound, within)
        place = within
        nodes *= 2


def _running_sums(values: list[Tensor], within: Tensor) -> list[Tensor]:
    """Sums of each child's values in front of each place.

    Args:
        values (list[Tensor]): Of the pairs of one child of each node, (nodes, L) each.
        within (Tensor): Their places, (nodes, L).

    Returns:
        list[Tensor]: Shape (nodes, L + 1) each.
    """
    nodes, width = within.shape
    flat = within + torch.arange(nodes, device=within.device)[:, None] * width
    found = []
    for value in values:
        ordered = torch.empty_like(value)
        ordered.view(-1)[flat] = value
        found.append(F.pad(ordered.cumsum(dim=1), (1, 0)))
    return found


def forward(pairs: SortedPairs) -> tuple[Tensor, Tensor, Tensor]:
    """Wrong mass, its derivative by the pair's own y, and right count, (P,) each, as sorted."""
    y, t = pairs.y, pairs.t
    ascending = y[pairs.by_pred]
    bound = torch.empty_like(pairs.by_pred)
    bound[pairs.by_pred] = torch.searchsorted(ascending, ascending - 1, right=True)
    mass, slope, right = _in_leaves(compare, pairs.num_leaves, y, t, y, t)
    for level in _levels(pairs, bound):
        left_y, right_y = y.view(level.nodes, 2, -1).unbind(1)
        left_t, right_t = t.view(level.nodes, 2, -1).unbind(1)
        width = left_y.shape[1]
        right.view(level.nodes, 2, -1)[:, 0] += width - level.place[:, 0]

        sums = _running_sums(
            [left_y, left_y**2, left_t, left_t * left_y, left_t * left_y**2], level.within[:, 0]
        )
        place, bound = level.place[:, 1], level.bound[:, 1]
        at_place, at_bound = _look_up(sums, place), _look_up(sums, bound)
        # Those within one tau in front of the pair: (t_i - t_j) (y_j + a)^2.
        n = (place - bound).to(y.dtype)
        y1, y2, t0, ty1, ty2 = (near - far for near, far in zip(at_place, at_bound))
        a = 1 - right_y
        own_mass = right_t * (y2 + a * (2 * y1 + a * n)) - (ty2 + a * (2 * ty1 + a * t0))
        own_slope = right_t * (y1 + a * n) - (ty1 + a * t0)
        # Those that outrank it: (t_i - t_j) (1 + 2 (y_j - y_i)).
        n = (width - place).to(y.dtype)
        y1, _, t0, ty1, _ = (each[:, -1:] - here for each, here in zip(sums, at_place))
        b = 1 - 2 * right_y
        own_mass += right_t * (2 * y1 + b * n) - (2 * ty1 + b * t0)
        own_slope += right_t * n - t0
        mass.view(level.nodes, 2, -1)[:, 1] += own_mass
        slope.view(level.nodes, 2, -1)[:, 1] -= 2 * own_slope
    # Of equal pairs only the first has found all others, which come behind it.
    same = (y[1:] == y[:-1]) & (t[1:] == t[:-1])
    first = torch.arange(len(y), device=y.device)
    first[1:].masked_fill_(same, 0)
    right = right[first.cummax(dim=0).values]
    count = len(pairs.order)
    return mass[:count], slope[:count], right[:count]


def backward(pairs: SortedPairs, grad: Tensor) -> Tensor:
    """Gradient by each y of the other pairs' wrong mass, (P,) as sorted.

    Args:
        pairs (SortedPairs): P pairs.
        grad (Tensor): Gradient of the loss by the wrong mass, float64 (P,), as sorted.
    """
    y, t = pairs.y, pairs.t
    grad = F.pad(grad, (0, len(y) - len(grad)))
    ascending = y[pairs.by_pred]
    bound = torch.empty_like(pairs.by_pred)
    bound[pairs.by_pred] = torch.searchsorted(ascending, ascending + 1)
    found = _in_leaves(pull, pairs.num_leaves, y, t, y, t, grad)
    for level in _levels(pairs, bound):
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
        at_place, at_bound = _look_up(sums, level.place[:, 0]), _look_up(sums, level.bound[:, 0])
        # Those up to one tau behind the pair: (t_i - t_k) (b - y_i).
        g, gy, gt, gty = (far - near for far, near in zip(at_bound, at_place))
        b = left_y + 1
        own = b * gt - gty - left_t * (b * g - gy)
        # Those that it outranks: (t_i - t_k).
        g, _, gt, _ = at_place
        own += gt - left_t * g
        found.view(level.nodes, 2, -1)[:, 0] += 2 * own
    return found[: len(pairs.order)]


def _look_up(sums: list[Tensor], index: Tensor) -> list[Tensor]:
    """Running sums (nodes, L + 1) in front of places (nodes, L)."""
    width = sums[0].shape[1]
    flat = index + torch.arange(len(index), device=index.device)[:, None] * width
    return [each.view(-1)[flat] for each in sums]


def _in_leaves(work: Callable, num_leaves: int, *values: Tensor):
    """Call ``work`` on a block of leaves (leaves, pairs) at a time; join what it returns (Q,)."""
    values = tuple(each.view(num_leaves, -1) for each in values)
    size = values[0].shape[1]
    limit = _COMPARISONS.get(values[0].device.type, _COMPARISONS_ELSEWHERE)
    blocks = zip(*(each.split(max(limit // size**2, 1)) for each in values))
    parts = [work(*block) for block in blocks]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts).view(-1)
    return tuple(torch.cat(each).view(-1) for each in zip(*parts))
