"""Average Precision with continuous targets: the loss, and the two rank statistics it is made of.

Two exact ways, chosen by length and device: comparing all pairs in blocks
(:mod:`.rank_all_pairs`), and dominance sums (:mod:`.rank_dominance`). Neither holds a P x P
tensor, forward or backward.
"""

from __future__ import annotations

from typing import Callable, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import rank_all_pairs, rank_dominance

METHODS = ('auto', 'pairs', 'compiled', 'sums')
#: Longest list for which comparing all pairs is faster. Measured on a CPU; see
#: docs/benchmarks.md. On a GPU a guess: fused comparisons are cheap, many small kernels are not.
LONGEST_FOR_PAIRS = dict(cpu=512, cuda=65536)

_EPS = 1e-5


def choose_method(length: int, device: torch.device) -> str:
    """The way that ``'auto'`` takes for a list of ``length`` pairs."""
    if length > LONGEST_FOR_PAIRS.get(device.type, LONGEST_FOR_PAIRS['cpu']):
        return 'sums'
    return 'compiled' if device.type == 'cuda' and _can_compile() else 'pairs'


def _can_compile() -> bool:
    from torch.utils._triton import has_triton

    return has_triton()


def _compiled(work: Callable) -> Callable:
    if work not in _COMPILED:
        _COMPILED[work] = torch.compile(work, dynamic=True)
    return _COMPILED[work]


_COMPILED: dict[Callable, Callable] = {}


class _RankStatistics(torch.autograd.Function):
    """Wrong mass and right count of P >= 1 pairs; the gradient reaches ``pred`` only."""

    @staticmethod
    def forward(ctx, pred: Tensor, target: Tensor, tau: float, method: str):
        ctx.tau, ctx.method = tau, method
        if method == 'sums':
            pairs = rank_dominance.sort_pairs(pred, target, tau)
            found = rank_dominance.forward(pairs)
            saved, (mass, slope, right) = (
                tuple(pairs),
                (torch.empty_like(each).index_copy_(0, pairs.order, each) for each in found),
            )
        else:
            y = pred / tau
            saved = (y, target)
            if method == 'compiled':
                mass, slope, right = _compiled(rank_all_pairs.compare)(y, target, y, target)
            else:
                mass, slope, right = rank_all_pairs.in_blocks(
                    rank_all_pairs.compare, (y, target), (y, target)
                )
        ctx.save_for_backward(slope, *saved)
        right = right.to(pred.dtype)
        ctx.mark_non_differentiable(right)
        return mass.to(pred.dtype), right

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _):
        slope, *saved = ctx.saved_tensors
        own = grad * slope
        if ctx.method == 'sums':
            pairs = rank_dominance.SortedPairs(*saved)
            others = rank_dominance.backward(pairs, grad.double()[pairs.order])
            others = torch.empty_like(others).index_copy_(0, pairs.order, others)
        else:
            y, target = saved
            if ctx.method == 'compiled':
                others = _compiled(rank_all_pairs.pull)(y, target, y, target, grad)
            else:
                others = rank_all_pairs.in_blocks(
                    rank_all_pairs.pull, (y, target), (y, target, grad)
                )
        return ((own + others) / ctx.tau).to(grad.dtype), None, None, None


def rank_statistics(
    pred: Tensor, target: Tensor, tau: float, method: str = 'auto'
) -> tuple[Tensor, Tensor]:
    r"""Both rank statistics of a list in one pass.

    See :func:`discordance` and :func:`concordant_rank` for what they are.

    Cost: ``'pairs'`` takes O(P^2) time, ``'sums'`` O(P log P), both O(P) memory.

    Args:
        pred (Tensor): Predicted similarity p, shape (P,).
        target (Tensor): Target similarity t, shape (P,); used as a constant.
        tau (float): Gap in ``pred`` from which on a right order costs nothing, > 0.
        method (str): ``'pairs'`` compares all pairs, in blocks; ``'compiled'`` the same,
            fused by ``torch.compile``; ``'sums'`` takes dominance sums in float64.
            Defaults to ``'auto'``, the fastest for the length and device.

    Returns:
        tuple[Tensor, Tensor]: Wrong mass and right count, shape (P,) each, float32
        (float64 for float64 ``pred``). Only the first has a gradient.

    Raises:
        ValueError: If shapes differ, are not 1-D, ``tau`` is not positive or ``method``
            is unknown.
    """
    if pred.ndim != 1 or pred.shape != target.shape:
        raise ValueError(
            'pred and target must be 1-D and of one length, got shapes '
            f'{tuple(pred.shape)} and {tuple(target.shape)}'
        )
    if not tau > 0:
        raise ValueError(f'tau must be > 0, got {tau}')
    if method not in METHODS:
        raise ValueError(f'method must be one of {METHODS}, got {method!r}')
    pred = pred if pred.dtype == torch.float64 else pred.float()
    target = target.detach().to(pred.dtype)
    if not len(pred):
        return pred * 0, target
    if method == 'auto':
        method = choose_method(len(pred), pred.device)
    return _RankStatistics.apply(pred, target, tau, method)


def discordance(pred: Tensor, target: Tensor, tau: float, method: str = 'auto') -> Tensor:
    r"""How much less similar pairs outrank each pair.

    .. math:: L_{pn}(i) = \sum_j \max(t_i - t_j, 0)\, \ell(p_i - p_j)

    where :math:`\ell(x)` is 0 for :math:`x \ge \tau`, :math:`(1 - x/\tau)^2` for
    :math:`0 \le x < \tau` and :math:`1 - 2x/\tau` below 0. The gradient reaches
    ``pred`` only.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        pred (Tensor): Predicted similarity p, shape (P,).
        target (Tensor): Target similarity t, shape (P,); used as a constant.
        tau (float): Gap in ``pred`` from which on a right order costs nothing, > 0.
        method (str): As in :func:`rank_statistics`.

    Returns:
        Tensor: Mass for each pair, shape (P,), float32 (float64 for float64 ``pred``).

    Raises:
        ValueError: As in :func:`rank_statistics`.
    """
    return rank_statistics(pred, target, tau, method)[0]


@torch.no_grad()
def concordant_rank(pred: Tensor, target: Tensor, method: str = 'auto') -> Tensor:
    """How many pairs rightly rank at or above each pair, itself included.

    ``L_pp(i) = sum_j [t_j >= t_i] [p_j >= p_i]``, a constant for the gradient.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        pred (Tensor): Predicted similarity p, shape (P,).
        target (Tensor): Target similarity t, shape (P,).
        method (str): As in :func:`rank_statistics`.

    Returns:
        Tensor: Counts >= 1, shape (P,), float32 (float64 for float64 ``pred``).

    Raises:
        ValueError: As in :func:`rank_statistics`.
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
    r"""1 - Average Precision of a list whose targets are numbers, not yes or no.

    .. math::
        L = \frac{\sum_i w_i\, r_i / (1 + r_i)}{\sum_i w_i}, \quad
        r_i = \frac{L_{pn}(i)}{L_{pp}(i)}, \quad w_i = \max(t_i - \theta, 0) \cdot weight_i

    The predictions are to *order* the list as the targets do. Only their differences
    enter, so a constant added to all of them changes nothing, and an item that many
    right ones outrank weighs little, which makes the loss tolerant of noise in the
    targets. With binary targets it is 1 - AP with a smooth rank. One list may hold a
    million items, see :func:`rank_statistics`.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        pred (Tensor): Predicted similarities (scores), shape (P,).
        target (Tensor): Target similarities, shape (P,); used as constants.
        tau (float): Gap in ``pred`` from which on a right order costs nothing, > 0.
            Defaults to 0.5, the paper's value for cosines.
        threshold (float): Theta; an item with a target below it is not wanted at the top
            and has no weight of its own. Defaults to -0.2, the paper's value for cosines.
        weight (Tensor, optional): Factors on the items' weights, >= 0, shape (P,).
        method (str): As in :func:`rank_statistics`.

    Returns:
        Tensor: The loss, a scalar in [0, 1); float32 at least.

    Raises:
        ValueError: As in :func:`rank_statistics`, and if ``weight`` has another shape.

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
        wrong, right = rank_statistics(pred, target, tau, method)
        ratio = wrong / (right + _EPS)
        wanted = (target.detach().to(wrong.dtype) - threshold).clamp_min(0)
        wanted = wanted if weight is None else wanted * weight
        return (wanted * ratio / (1 + ratio)).sum() / (wanted.sum() + _EPS)
