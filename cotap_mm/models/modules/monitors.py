"""Scalars that reveal a collapse before the loss does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cotap_mm.ops import at_least_float32


def _entropy(share: Tensor) -> Tensor:
    return -torch.special.xlogy(share, share).sum(dim=-1)


@torch.no_grad()
def assignment_monitors(assignment: Tensor, prefix: str = '') -> dict[str, Tensor]:
    """Measure how evenly and how decidedly clusters are used.

    Args:
        assignment (Tensor): Soft assignment, shape (N, K).
        prefix (str): Prefix of the keys. Defaults to ''.

    Returns:
        dict[str, Tensor]: ``mean_assignment_entropy``, the entropy of the mean assignment (1: all
        clusters are used equally, 0: only one is used), and ``assignment_entropy``, the mean
        entropy of the assignments (1: uniform, 0: one-hot); both as a fraction of log K.
    """
    scale = max(math.log(assignment.shape[-1]), 1e-12)
    return {
        f'{prefix}mean_assignment_entropy': _entropy(assignment.mean(dim=0)) / scale,
        f'{prefix}assignment_entropy': _entropy(assignment).mean() / scale,
    }


@torch.no_grad()
def feature_std(features: Tensor) -> Tensor:
    """Measure the spread of directions: 1 for isotropic features, 0 if all directions are equal.

    Args:
        features (Tensor): Shape (N, C).

    Returns:
        Tensor: Standard deviation of the L2-normalized features times sqrt(C), a scalar.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    return unit.var(dim=0, unbiased=False).sum().sqrt()


@torch.no_grad()
def prototypes_in_use(attention: Tensor) -> Tensor:
    """Compute the fraction of prototypes that are the strongest one of at least one patch.

    Args:
        attention (Tensor): Attention of patches to prototypes, shape (B, heads, N, M).

    Returns:
        Tensor: A scalar in (0, 1].
    """
    strongest = at_least_float32(attention).mean(dim=1).argmax(dim=-1).flatten()  # (B*N,)
    used = torch.zeros(attention.shape[-1], device=attention.device)
    return used.index_fill_(0, strongest, 1.0).mean()
