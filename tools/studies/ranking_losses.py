"""Objectives over rows of similarities that the noise study compares with CoTAP.

A row is a query, its columns are the other samples of the batch: ``pred`` holds the student's
cosines, ``target`` the wanted similarities. Losses that need a yes or no take ``relevant``.
All return a scalar, a mean over rows, and have no state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _check(pred: Tensor, other: Tensor, temperature: float = 1.0) -> None:
    if pred.ndim != 2 or pred.shape != other.shape:
        raise ValueError(
            'expected two matrices (rows, columns) of one shape, got '
            f'{tuple(pred.shape)} and {tuple(other.shape)}'
        )
    if not temperature > 0:
        raise ValueError(f'temperature must be > 0, got {temperature}')


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of similarities.

    Args:
        pred (Tensor): Student's cosines, shape (B, N).
        target (Tensor): Wanted similarities, shape (B, N).

    Returns:
        Tensor: A scalar.
    """
    _check(pred, target)
    return F.mse_loss(pred, target)


def info_nce(pred: Tensor, relevant: Tensor, temperature: float) -> Tensor:
    """InfoNCE with several positives: mean of -log softmax over them.

    Source: Khosla et al., https://arxiv.org/abs/2004.11362, Eq. 2 (the sum outside the logarithm).

    Args:
        pred (Tensor): Student's cosines, shape (B, N).
        relevant (Tensor): True for positives, bool (B, N).
        temperature (float): Softmax temperature, > 0.

    Returns:
        Tensor: A scalar; 0 if no row has a positive.
    """
    _check(pred, relevant, temperature)
    cost = -(pred / temperature).log_softmax(dim=1)
    count = relevant.sum(dim=1)  # (B,)
    rows = (cost * relevant).sum(dim=1) / count.clamp_min(1)
    return rows.sum() / (count > 0).sum().clamp_min(1)


def soft_target_divergence(pred: Tensor, target: Tensor, temperature: float) -> Tensor:
    """KL divergence of the softmax over a row of ``pred`` from that over ``target``.

    Up to the entropy of the targets, a constant, this is ListNet
    (Cao et al., ICML 2007) with top-one probabilities.

    Args:
        pred (Tensor): Student's cosines, shape (B, N).
        target (Tensor): Wanted similarities, shape (B, N).
        temperature (float): Of both softmaxes, > 0.

    Returns:
        Tensor: A scalar, >= 0.
    """
    _check(pred, target, temperature)
    return F.kl_div(
        (pred / temperature).log_softmax(dim=1),
        (target / temperature).softmax(dim=1),
        reduction='batchmean',
    )


def list_mle(pred: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Negative log-likelihood of the target's order under the Plackett-Luce model of ``pred``.

    Equal targets have no order: one is drawn at random (torch's global generator) in each
    call. Mean over the places of a row.

    Source: Xia et al., Listwise Approach to Learning to Rank, ICML 2008.

    Args:
        pred (Tensor): Student's cosines, shape (B, N).
        target (Tensor): Wanted similarities, shape (B, N).
        temperature (float): Softmax temperature of the model, > 0.

    Returns:
        Tensor: A scalar.
    """
    _check(pred, target, temperature)
    shuffled = torch.rand_like(target).argsort(dim=1)
    order = target.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    logits = pred.gather(1, shuffled.gather(1, order)) / temperature  # best first
    left = logits.flip(1).logcumsumexp(dim=1).flip(1)  # log-sum-exp of a place and all after it
    return (left - logits).mean()


def smooth_ap(pred: Tensor, relevant: Tensor, temperature: float) -> Tensor:
    """1 - Average Precision with the step function smoothed to a sigmoid.

    Rows without a positive are skipped. Cost: O(B N^2) time and memory.
    Source: Brown et al., https://arxiv.org/abs/2007.12163, Eq. 8.

    Args:
        pred (Tensor): Student's cosines, shape (B, N).
        relevant (Tensor): True for positives, bool (B, N).
        temperature (float): Sigmoid temperature, > 0; the authors use 0.01.

    Returns:
        Tensor: A scalar in [0, 1]; 0 if no row has a positive.
    """
    _check(pred, relevant, temperature)
    above = ((pred[:, None, :] - pred[:, :, None]) / temperature).sigmoid()  # (B, i, j): j above i
    above = above * (1 - torch.eye(pred.shape[1], device=pred.device))
    rank_of_all = 1 + above.sum(dim=2)  # (B, N)
    rank_of_relevant = 1 + (above * relevant[:, None, :]).sum(dim=2)
    count = relevant.sum(dim=1)
    precision = (rank_of_relevant / rank_of_all * relevant).sum(dim=1) / count.clamp_min(1)
    return ((1 - precision) * (count > 0)).sum() / (count > 0).sum().clamp_min(1)
