"""Networks, losses and the algorithm; importing this package registers them."""

from __future__ import annotations

from .algorithms import CoTAP
from .backbones import CoTAPViT, DINOViT, LoRAViT
from .data_preprocessor import CoTAPDataPreprocessor
from .heads import PrototypeHead
from .losses import (
    ClsClusterLoss,
    ClusterAssignmentLoss,
    GramLoss,
    NeighborClusterLoss,
    PatchClusterLoss,
    PatchRankingLoss,
    PrototypeEntropyLoss,
)
from .modules import EMATeacher, FeatureQueue, PatchPairSampler, RandomDraws, TemplateBank
from .necks import NoFilter, ObjectAwareFilter, SimpleFeaturePyramid

__all__ = [
    'ClsClusterLoss',
    'ClusterAssignmentLoss',
    'CoTAP',
    'CoTAPDataPreprocessor',
    'CoTAPViT',
    'DINOViT',
    'EMATeacher',
    'FeatureQueue',
    'GramLoss',
    'LoRAViT',
    'NeighborClusterLoss',
    'NoFilter',
    'ObjectAwareFilter',
    'PatchClusterLoss',
    'PatchPairSampler',
    'PatchRankingLoss',
    'PrototypeEntropyLoss',
    'PrototypeHead',
    'RandomDraws',
    'SimpleFeaturePyramid',
    'TemplateBank',
]
