"""Building blocks of the algorithm: teacher, queues, sampling, monitors."""

from __future__ import annotations

from .assignment_queue import AssignmentQueue
from .crop_batch import CropBatch
from .ema_teacher import EMATeacher
from .feature_queue import FeatureQueue
from .monitors import assignment_monitors, feature_std, prototypes_in_use
from .patch_pairs import PatchPairSampler
from .random_draws import RandomDraws
from .template_bank import TemplateBank

__all__ = [
    'AssignmentQueue',
    'CropBatch',
    'EMATeacher',
    'FeatureQueue',
    'PatchPairSampler',
    'RandomDraws',
    'TemplateBank',
    'assignment_monitors',
    'feature_std',
    'prototypes_in_use',
]
