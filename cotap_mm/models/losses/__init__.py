from __future__ import annotations

from .cluster_assignment_loss import (
    ClsClusterLoss,
    ClusterAssignmentLoss,
    NeighborClusterLoss,
    PatchClusterLoss,
)
from .patch_ranking_loss import PatchRankingLoss
from .prototype_entropy_loss import PrototypeEntropyLoss

__all__ = [
    'ClsClusterLoss',
    'ClusterAssignmentLoss',
    'NeighborClusterLoss',
    'PatchClusterLoss',
    'PatchRankingLoss',
    'PrototypeEntropyLoss',
]
