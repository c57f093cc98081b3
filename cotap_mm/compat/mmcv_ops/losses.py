"""Focal losses and their gradients in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import working_dtype

#: Lower bound of a probability before the logarithm: the smallest normal float32, as in MMCV.
_TINY = torch.finfo(torch.float32).tiny


def _row_weight(weight: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """Weight of each row by its class, shape (N,); 1 for labels that are not a class."""
    if weight.numel() == 0:
        return target.new_ones(len(target), dtype=dtype)
    known = (target >= 0) & (target < len(weight))
    picked = weight.to(dtype)[target.clamp(0, len(weight) - 1)]
    return torch.where(known, picked, torch.ones_like(picked))


def _sigmoid_parts(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and clamped logarithms, with targets as booleans; all (N, K)."""
    chance = input.to(working_dtype(input)).sigmoid()
    hit = target[:, None] == torch.arange(input.size(1), device=target.device)
    return chance, (torch.where(hit, chance, 1 - chance)).clamp(min=_TINY).log(), hit


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss of each class to ``output``.

    Args:
        input (Tensor): Logits, shape (N, K).
        target (Tensor): Class indices, shape (N,); K is the background.
        weight (Tensor): Weight of each class, shape (K,), or empty.
        output (Tensor): Output, shape (N, K).
        gamma (float): Exponent.
        alpha (float): Weight of positive targets; 1 - alpha is that of the others.
    """
    chance, log, hit = _sigmoid_parts(input, target)
    loss = torch.where(hit, -alpha * (1 - chance) ** gamma, (alpha - 1) * chance**gamma) * log
    output.copy_(loss * _row_weight(weight, target, loss.dtype)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of the loss with respect to the logits to ``grad_input``."""
    chance, log, hit = _sigmoid_parts(input, target)
    missed = 1 - chance
    positive = -alpha * missed**gamma * (missed - gamma * chance * log)
    negative = (alpha - 1) * chance**gamma * (gamma * missed * log - chance)
    grad = torch.where(hit, positive, negative)
    grad_input.copy_(grad * _row_weight(weight, target, grad.dtype)[:, None])


def _chance_of_target(softmax: Tensor, target: Tensor) -> Tensor:
    """Probability of each row's target, shape (N,), of any value for negative targets."""
    wide = softmax.to(working_dtype(softmax))
    return wide.gather(1, target.clamp(min=0)[:, None]).squeeze(1)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss of each row to ``output``.

    Args:
        input (Tensor): Softmax probabilities, shape (N, K).
        target (Tensor): Class indices, shape (N,); rows with negative ones cost nothing.
        weight (Tensor): Weight of each class, shape (K,), or empty.
        output (Tensor): Output, shape (N,).
        gamma (float): Exponent.
        alpha (float): Factor.
    """
    chance = _chance_of_target(input, target)
    loss = -alpha * (1 - chance) ** gamma * chance.clamp(min=_TINY).log()
    loss = loss * _row_weight(weight, target, loss.dtype)
    output.copy_(torch.where(target >= 0, loss, torch.zeros_like(loss)))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative with respect to the logits to ``grad_input``; ``buff`` is a buffer."""
    chance = _chance_of_target(input, target)
    missed = 1 - chance
    log = chance.clamp(min=_TINY).log()
    slope = alpha * (gamma * missed ** (gamma - 1) * chance * log - missed**gamma)
    slope = slope * _row_weight(weight, target, slope.dtype)
    slope = torch.where(target >= 0, slope, torch.zeros_like(slope))
    buff.copy_(slope)
    hit = target[:, None] == torch.arange(input.size(1), device=target.device)
    grad_input.copy_(slope[:, None] * (hit.to(slope.dtype) - input.to(slope.dtype)))
