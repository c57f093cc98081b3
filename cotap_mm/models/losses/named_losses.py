"""The losses of a training by name: which branch each reads, and its weight."""

from __future__ import annotations

from typing import Optional

from torch import Tensor, nn

from cotap_mm.registry import MODELS, build
from cotap_mm.rules import check_rules, number


class NamedLosses(nn.ModuleDict):
    """Any of the five losses of CoTAP, and ``gram``, the anchor to the initial network.

    Args:
        losses (dict[str, dict | nn.Module | None]): Loss modules or their configs by name, see
            :attr:`of_branch`. None skips a loss.
        weights (dict[str, float], optional): Factors by name, >= 0. Defaults to None, 1 for each.

    Raises:
        ValueError: If a name is unknown, a weight is negative, or no loss is given.
    """

    #: Branch -> losses for which the branch is computed.
    of_branch = dict(
        patch=('patch_cluster', 'patch_ranking', 'gram'),
        cls=('cls_cluster', 'cls_neighbor', 'prototype_entropy'),
    )
    #: Branch -> losses that train its head.
    of_head = dict(patch=('patch_cluster', 'patch_ranking'), cls=('cls_cluster', 'cls_neighbor'))

    def __init__(self, losses: dict, weights: Optional[dict[str, float]] = None) -> None:
        losses = {name: loss for name, loss in losses.items() if loss is not None}
        known = self.of_branch['patch'] + self.of_branch['cls']
        for key, names in (('losses', losses), ('loss_weights', weights or {})):
            if set(names) - set(known) or not losses:
                raise ValueError(f'{key} must name some of {known}, got {sorted(names)}')
        super().__init__(
            {
                name: loss if isinstance(loss, nn.Module) else build(MODELS, loss)
                for name, loss in losses.items()
            }
        )
        self.weights = dict(weights or {})
        check_rules(self.weights, dict.fromkeys(self.weights, number(0)), 'loss_weights.')

    @property
    def branches(self) -> list[str]:
        """Branches that at least one loss reads."""
        return [
            branch
            for branch, names in self.of_branch.items()
            if any(name in self for name in names)
        ]

    def trains_head(self, branch: str) -> bool:
        """Return whether at least one loss trains the head of ``branch``."""
        return any(name in self for name in self.of_head[branch])

    def scale(self, values: dict[str, Tensor]) -> None:
        """Multiply the values ``loss_*`` by their weights, in place."""
        for name, weight in self.weights.items():
            if name in self:
                values[f'loss_{name}'] = weight * values[f'loss_{name}']
