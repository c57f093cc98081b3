"""Numbers that show a collapse before the loss does."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _entropy(share: Tensor) -> Tensor:
    return -torch.special.xlogy(share, share).sum(dim=-1)


@torch.no_grad()
def assignment_monitors(assignment: Tensor) -> dict[str, Tensor]:
    """How the clusters are used.

    Args:
        assignment (Tensor): Soft assignment, shape (N, K).

    Returns:
        dict[str, Tensor]: Entropy of the mean assignment (1: all clusters used alike,
        0: one cluster takes all) and mean entropy of the assignments (1: undecided, 0:
        one cluster each), both as a share of log K.
    """
    scale = max(math.log(assignment.shape[-1]), 1e-12)
    return dict(
        mean_assignment_entropy=_entropy(assignment.mean(dim=0)) / scale,
        assignment_entropy=_entropy(assignment).mean() / scale,
    )


@torch.no_grad()
def feature_std(features: Tensor) -> Tensor:
    """Spread of directions: 1 for isotropic features, 0 if all point one way.

    Args:
        features (Tensor): Shape (N, C).

    Returns:
        Tensor: Standard deviation of the L2-normalised features times sqrt(C), a scalar.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    return unit.var(dim=0, unbiased=False).sum().sqrt()


@torch.no_grad()
def prototypes_in_use(attention: Tensor) -> Tensor:
    """Share of prototypes that are some patch's strongest.

    Args:
        attention (Tensor): Patches over prototypes, shape (B, heads, N, M).

    Returns:
        Tensor: In (0, 1], a scalar.
    """
    winners = attention.mean(dim=1).argmax(dim=-1).flatten()  # (B*N,)
    used = torch.zeros(attention.shape[-1], device=attention.device)
    return used.index_fill_(0, winners, 1.0).mean()
