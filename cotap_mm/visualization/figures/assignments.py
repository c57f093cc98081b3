"""Hard assignment of patches to the prototypes of the object-aware filter."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .canvas import Pixels
from .clusters import cluster_overlay, distinct_colors

OTHERS = (190, 190, 190)  # color of all prototypes without one of their own
MOST_COLORS = 16  # the first 8 are distinguishable with any common color blindness


class Assignments(NamedTuple):
    """Prototype of each patch.

    Attributes:
        labels (np.ndarray): 0 for the most used prototype, 1 for the next, ...; the last label
            stands for all others, int, shape (B, h, w).
        prototypes (list): Index of the prototype of each label, without the last.
        shares (list): Share of the patches of each label, with the last.
        effective (float): Perplexity of the shares of all prototypes: 1 if all patches have the
            same one, M if all are used equally.
        entropy (float): Mean entropy of the attention of a patch, as share of the maximum
            log(M): 1 if each patch attends to all prototypes equally.
        contrast (float): Mean over patches of the largest weight relative to the mean weight of
            its prototype: 1 if all patches attend alike.
    """

    labels: np.ndarray
    prototypes: list[int]
    shares: list[float]
    effective: float
    entropy: float
    contrast: float

    @property
    def legend(self) -> dict[str, tuple[int, int, int]]:
        """Name of each prototype with its share -> color."""
        names = [f'{index} ({100 * s:.0f} %)' for index, s in zip(self.prototypes, self.shares)]
        legend = dict(zip(names, distinct_colors(len(names))))
        if self.shares[-1] > 0:
            legend[f'others ({100 * self.shares[-1]:.0f} %)'] = OTHERS
        return legend

    def summary(self, count: int) -> str:
        """How the patches use ``count`` prototypes, in one phrase."""
        return (
            f'{self.effective:.1f} of {count} prototypes are in effective use, the attention of '
            f'a patch has {100 * self.entropy:.1f} % of the largest possible entropy'
        )


def assign_patches(attention: Tensor, most_colors: int = MOST_COLORS) -> Assignments:
    """Assign each patch to the prototype that stands out in its attention.

    The weights of a prototype are divided by their mean over all patches first: attention is
    soft, and a prototype that is slightly stronger everywhere would win for all patches.

    Args:
        attention (Tensor): Softmax weights, mean over heads, shape (B, h, w, M).
        most_colors (int): Number of prototypes with a color of their own, the most used ones.
            Defaults to 16.

    Returns:
        Assignments: Labels, shares and statistics.

    Raises:
        ValueError: If the shape is wrong.
    """
    if attention.ndim != 4:
        raise ValueError(f'attention must have shape (B, h, w, M), got {tuple(attention.shape)}')
    weights = attention.detach().double().cpu()
    count = weights.shape[-1]
    relative = weights / weights.mean(dim=(0, 1, 2)).clamp_min(1e-12)
    best, chosen = relative.max(dim=-1)
    uses = np.bincount(chosen.flatten().numpy(), minlength=count)
    order = np.argsort(-uses, kind='stable')
    shown = [int(index) for index in order[:most_colors] if uses[index]]
    rank = np.full(count, len(shown))
    rank[shown] = np.arange(len(shown))
    shares = uses / uses.sum()
    used = shares[shares > 0]
    entropy = -(weights * weights.clamp_min(1e-12).log()).sum(dim=-1).mean()
    return Assignments(
        rank[chosen.numpy()],
        shown,
        [*(float(shares[index]) for index in shown), float(1 - shares[shown].sum())],
        float(np.exp(-(used * np.log(used)).sum())),
        max(0.0, float(entropy)) / math.log(count) if count > 1 else 1.0,
        float(best.mean()),
    )


def assignment_overlay(image: Pixels, labels: np.ndarray, count: int) -> Pixels:
    """Blend the colors of prototypes with the gray image.

    Args:
        image (np.ndarray): uint8, shape (H, W, 3).
        labels (np.ndarray): Label of each patch, shape (h, w).
        count (int): Number of prototypes with a color; label ``count`` is gray.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    return cluster_overlay(image, labels, colors=[*distinct_colors(count), OTHERS])
