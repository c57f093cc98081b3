"""Building blocks of the algorithm: teacher, queues, sampling, monitors."""

from __future__ import annotations

from .anchor_network import AnchorNetwork
from .assignment_queue import AssignmentQueue
from .crop_batch import CropBatch
from .ema_teacher import EMATeacher
from .feature_queue import FeatureQueue
from .foreground import (
    ClippedAttention,
    ClsAttention,
    KeyNormAttention,
    MedianAttention,
    PcaForeground,
    border_excess,
)
from .monitors import assignment_monitors, feature_std, prototypes_in_use
from .patch_pairs import PatchPairSampler
from .random_draws import RandomDraws
from .template_bank import TemplateBank

__all__ = [
    'AnchorNetwork',
    'AssignmentQueue',
    'ClippedAttention',
    'ClsAttention',
    'CropBatch',
    'EMATeacher',
    'FeatureQueue',
    'KeyNormAttention',
    'MedianAttention',
    'PatchPairSampler',
    'PcaForeground',
    'RandomDraws',
    'TemplateBank',
    'assignment_monitors',
    'border_excess',
    'feature_std',
    'prototypes_in_use',
]
