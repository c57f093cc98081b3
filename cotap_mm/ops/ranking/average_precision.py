"""Average Precision with continuous targets, and the two rank statistics it consists of.

Two exact algorithms, chosen by length and device: comparing all items pairwise, in blocks
(:mod:`.rank_pairwise`), and sorting (:mod:`.rank_sorted`). Neither holds a P x P tensor, in the
forward or the backward pass.

Two items are *concordant* if prediction and target order them alike, and *discordant* if not.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cotap_mm.compat.compiled import can_compile, compiled
from cotap_mm.deprecation import warn_renamed

from . import rank_pairwise, rank_sorted

METHODS = ('auto', 'pairwise', 'compiled', 'sorted')
_RENAMED_METHODS = dict(pairs='pairwise', sums='sorted')
#: Longest list for which comparing all items pairwise is faster. Measured on a CPU, see
#: docs/benchmarks.md; for a GPU an estimate: fused comparisons are cheap, many small kernels are
#: not.
LONGEST_PAIRWISE = dict(cpu=512, cuda=65536)

_EPS = 1e-5


def resolve_method(method: str, stacklevel: int = 4) -> str:
    """Check the name of a method; old names are translated with a deprecation warning.

    Args:
        method (str): One of :data:`METHODS`, or an old name.
        stacklevel (int): Frame that a warning names. Defaults to 4, the caller of the caller.

    Returns:
        str: One of :data:`METHODS`.

    Raises:
        ValueError: If ``method`` is unknown.
    """
    if isinstance(method, str) and method in _RENAMED_METHODS:
        new = _RENAMED_METHODS[method]
        warn_renamed(f'method={method!r}', f'method={new!r}', stacklevel)
        return new
    if method not in METHODS:
        raise ValueError(f'method must be one of {METHODS}, got {method!r}')
    return method


def choose_method(length: int, device: torch.device) -> str:
    """Return the method that ``'auto'`` uses for a list of ``length`` items."""
    if length > LONGEST_PAIRWISE.get(device.type, LONGEST_PAIRWISE['cpu']):
        return 'sorted'
    return 'compiled' if device.type == 'cuda' and can_compile() else 'pairwise'


class _RankStatistics(torch.autograd.Function):
    """Discordance and concordant rank of P >= 1 items; the gradient reaches ``pred`` only."""

    @staticmethod
    def forward(ctx, pred: Tensor, target: Tensor, tau: float, method: str):
        ctx.tau, ctx.method = tau, method
        if method == 'sorted':
            items = rank_sorted.sort_items(pred, target, tau)
            saved, (discordance, slope, concordant) = (
                tuple(items),
                (
                    torch.empty_like(values).index_copy_(0, items.order, values)
                    for values in rank_sorted.sorted_statistics(items)
                ),
            )
        else:
            y = pred / tau
            saved = (y, target)
            statistics = rank_pairwise.pairwise_statistics
            if method == 'compiled':
                discordance, slope, concordant = compiled(statistics)(y, target, y, target)
            else:
                discordance, slope, concordant = rank_pairwise.in_blocks(
                    statistics, (y, target), (y, target)
                )
        ctx.save_for_backward(slope, *saved)
        concordant = concordant.to(pred.dtype)
        ctx.mark_non_differentiable(concordant)
        return discordance.to(pred.dtype), concordant

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _):
        slope, *saved = ctx.saved_tensors
        own = grad * slope
        if ctx.method == 'sorted':
            items = rank_sorted.SortedItems(*saved)
            others = rank_sorted.sorted_gradient(items, grad.double()[items.order])
            others = torch.empty_like(others).index_copy_(0, items.order, others)
        else:
            y, target = saved
            gradient = rank_pairwise.pairwise_gradient
            if ctx.method == 'compiled':
                others = compiled(gradient)(y, target, y, target, grad)
            else:
                others = rank_pairwise.in_blocks(gradient, (y, target), (y, target, grad))
        return ((own + others) / ctx.tau).to(grad.dtype), None, None, None


def rank_statistics(
    pred: Tensor, target: Tensor, tau: float, method: str = 'auto'
) -> tuple[Tensor, Tensor]:
    """Compute discordance and concordant rank of a list in one pass.

    See :func:`discordance` and :func:`concordant_rank` for the definitions.

    Cost: ``'pairwise'`` takes O(P^2) time, ``'sorted'`` O(P log P), both O(P) memory.

    Args:
        pred (Tensor): Predicted similarity p, shape (P,).
        target (Tensor): Target similarity t, shape (P,); used as a constant.
        tau (float): Margin: correctly ordered items separated by at least ``tau`` in ``pred``
            incur no penalty. > 0.
        method (str): ``'pairwise'`` compares every two items, in blocks; ``'compiled'`` does the
            same, fused by ``torch.compile``; ``'sorted'`` sorts and takes dominance sums in
            float64. Defaults to ``'auto'``, the fastest for the length and device.

    Returns:
        tuple[Tensor, Tensor]: Discordance and concordant rank, shape (P,) each, float32
        (float64 for float64 ``pred``). Only the first has a gradient.

    Raises:
        ValueError: If shapes differ, are not 1-D, ``tau`` is not positive or ``method``
            is unknown.
    """
    if pred.ndim != 1 or pred.shape != target.shape:
        raise ValueError(
            'pred and target must be 1-D and have the same length, got shapes '
            f'{tuple(pred.shape)} and {tuple(target.shape)}'
        )
    if not tau > 0:
        raise ValueError(f'tau must be > 0, got {tau}')
    method = resolve_method(method)
    pred = pred if pred.dtype == torch.float64 else pred.float()
    target = target.detach().to(pred.dtype)
    if not len(pred):
        return pred * 0, target
    if method == 'auto':
        method = choose_method(len(pred), pred.device)
    return _RankStatistics.apply(pred, target, tau, method)


def discordance(pred: Tensor, target: Tensor, tau: float, method: str = 'auto') -> Tensor:
    r"""Measure how far items with smaller targets outrank each item.

    .. math:: L_{pn}(i) = \sum_j \max(t_i - t_j, 0)\, \ell(p_i - p_j)

    where :math:`\ell(x)` is 0 for :math:`x \ge \tau`, :math:`(1 - x/\tau)^2` for
    :math:`0 \le x < \tau` and :math:`1 - 2x/\tau` below 0. The gradient reaches
    ``pred`` only.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        pred (Tensor): Predicted similarity p, shape (P,).
        target (Tensor): Target similarity t, shape (P,); used as a constant.
        tau (float): Margin: correctly ordered items separated by at least ``tau`` in ``pred``
            incur no penalty. > 0.
        method (str): See :func:`rank_statistics`.

    Returns:
        Tensor: Discordance of each item, shape (P,), float32 (float64 for float64 ``pred``).

    Raises:
        ValueError: See :func:`rank_statistics`.
    """
    return rank_statistics(pred, target, tau, method)[0]


@torch.no_grad()
def concordant_rank(pred: Tensor, target: Tensor, method: str = 'auto') -> Tensor:
    """Count the items that rank at or above each item in both prediction and target.

    ``L_pp(i) = sum_j [t_j >= t_i] [p_j >= p_i]``, which includes the item itself and is a
    constant for the gradient.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        pred (Tensor): Predicted similarity p, shape (P,).
        target (Tensor): Target similarity t, shape (P,).
        method (str): See :func:`rank_statistics`.

    Returns:
        Tensor: Counts >= 1, shape (P,), float32 (float64 for float64 ``pred``).

    Raises:
        ValueError: See :func:`rank_statistics`.
    """
    return rank_statistics(pred, target, 1.0, method)[1]


def continuous_average_precision(
    pred: Tensor,
    target: Tensor,
    tau: float = 0.5,
    threshold: float = -0.2,
    weight: Optional[Tensor] = None,
    method: str = 'auto',
) -> Tensor:
    r"""Compute 1 - Average Precision of a list with continuous targets.

    .. math::
        L = \frac{\sum_i w_i\, r_i / (1 + r_i)}{\sum_i w_i}, \quad
        r_i = \frac{L_{pn}(i)}{L_{pp}(i)}, \quad w_i = \max(t_i - \theta, 0) \cdot weight_i

    The loss is low if the predictions *order* the list as the targets do. It depends only on
    differences of predictions, so a constant added to all of them changes nothing. An item with
    many concordant items above it has little influence, which makes the loss tolerant of noise in
    the targets. With binary targets it is 1 - AP with a smooth rank. A list may hold a million
    items, see :func:`rank_statistics`.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        pred (Tensor): Predicted similarities (scores), shape (P,).
        target (Tensor): Target similarities, shape (P,); used as constants.
        tau (float): Margin: correctly ordered items separated by at least ``tau`` in ``pred``
            incur no penalty. > 0. Defaults to 0.5, the paper's value for cosines.
        threshold (float): Theta: items with a smaller target have zero weight. Defaults to -0.2,
            the paper's value for cosines.
        weight (Tensor, optional): Additional factors on the weights of the items, >= 0, shape
            (P,). Defaults to None, 1 for each.
        method (str): See :func:`rank_statistics`.

    Returns:
        Tensor: The loss, a scalar in [0, 1), at least float32.

    Raises:
        ValueError: See :func:`rank_statistics`; also if ``weight`` has another shape.

    Example:
        >>> pred = torch.tensor([.8, .6, 0., -.2], requires_grad=True)
        >>> target = torch.tensor([.9, .5, .1, -.3])
        >>> loss = continuous_average_precision(pred, target)
        >>> loss.backward()
    """
    if weight is not None and weight.shape != target.shape:
        raise ValueError(
            f'weight must have the shape of target, {tuple(target.shape)}, got '
            f'{tuple(weight.shape)}'
        )
    with torch.autocast(pred.device.type, enabled=False):
        discordant, concordant = rank_statistics(pred, target, tau, method)
        ratio = discordant / (concordant + _EPS)
        relevance = (target.detach().to(discordant.dtype) - threshold).clamp_min(0)
        relevance = relevance if weight is None else relevance * weight
        return (relevance * ratio / (1 + ratio)).sum() / (relevance.sum() + _EPS)
