"""Weights in and out: recognise a file, rename its tensors, fit them to a model."""

from __future__ import annotations

from .detection import SOURCES
from .fitting import LoadReport
from .initializer import PretrainedViT, init_then_load
from .loading import load_pretrained
from .naming import rename_released

__all__ = [
    'LoadReport',
    'PretrainedViT',
    'SOURCES',
    'init_then_load',
    'load_pretrained',
    'rename_released',
]
