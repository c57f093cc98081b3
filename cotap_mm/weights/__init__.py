"""Load weights: detect a checkpoint's format, rename its tensors, fit them to a model."""

from __future__ import annotations

from .checkpoint import DetectedCheckpoint, detect_checkpoint
from .formats.detection import SOURCES
from .formats.naming import rename_released
from .initializer import PretrainedViT, init_then_load
from .loading import load_pretrained
from .report import LoadReport

__all__ = [
    'DetectedCheckpoint',
    'LoadReport',
    'PretrainedViT',
    'SOURCES',
    'detect_checkpoint',
    'init_then_load',
    'load_pretrained',
    'rename_released',
]
