"""The two rank statistics of Average Precision with continuous targets.

Both compare all pairs: O(P^2) time and memory for P pairs.
"""
import torch
from torch import Tensor


def _check_pairs(pred: Tensor, target: Tensor) -> None:
    if pred.ndim != 1 or pred.shape != target.shape:
        raise ValueError('pred and target must be 1-D and of one length, got shapes '
                         f'{tuple(pred.shape)} and {tuple(target.shape)}')


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def wrong_rank_mass(pred: Tensor, target: Tensor, tau: float) -> Tensor:
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

    Returns:
        Tensor: Mass for each pair, shape (P,), float32 (float64 for float64 ``pred``).

    Raises:
        ValueError: If shapes differ, are not 1-D, or ``tau`` is not positive.
    """
    _check_pairs(pred, target)
    if not tau > 0:
        raise ValueError(f'tau must be > 0, got {tau}')
    p, t = _at_least_float32(pred), _at_least_float32(target.detach())
    lead = (p[:, None] - p[None, :]) / tau  # (P, P): how far i leads j, in units of tau
    penalty = torch.where(lead >= 0, (1 - lead.clamp(0, 1)).square(), 1 - 2 * lead)
    gap = (t[:, None] - t[None, :]).clamp_min(0)  # (P, P)
    return (gap * penalty).sum(dim=1)


@torch.no_grad()
def right_rank_count(pred: Tensor, target: Tensor) -> Tensor:
    """How many pairs rightly rank at or above each pair, itself included.

    ``L_pp(i) = sum_j [t_j >= t_i] [p_j >= p_i]``, a constant for the gradient.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        pred (Tensor): Predicted similarity p, shape (P,).
        target (Tensor): Target similarity t, shape (P,).

    Returns:
        Tensor: Counts >= 1, shape (P,), float32 (float64 for float64 ``pred``).

    Raises:
        ValueError: If shapes differ or are not 1-D.
    """
    _check_pairs(pred, target)
    above = (target[None, :] >= target[:, None]) & (pred[None, :] >= pred[:, None])  # (P, P)
    return above.sum(dim=1).to(_at_least_float32(pred).dtype)
