"""Losses: scores -> scalar."""

from __future__ import annotations

from .cluster_assignment_loss import (
    ClsClusterLoss,
    ClusterAssignmentLoss,
    NeighborClusterLoss,
    PatchClusterLoss,
)
from .gram_loss import GramLoss
from .named_losses import NamedLosses
from .patch_ranking_loss import PatchRankingLoss
from .prototype_entropy_loss import PrototypeEntropyLoss

__all__ = [
    'ClsClusterLoss',
    'ClusterAssignmentLoss',
    'GramLoss',
    'NamedLosses',
    'NeighborClusterLoss',
    'PatchClusterLoss',
    'PatchRankingLoss',
    'PrototypeEntropyLoss',
]
