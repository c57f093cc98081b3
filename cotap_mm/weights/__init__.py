"""Weights in and out: recognise a file, rename its tensors, fit them to a model."""

from __future__ import annotations

from .conversion import TARGETS, convert
from .fitting import LoadReport
from .initializer import PretrainedViT, init_then_load
from .loading import load_pretrained
from .naming import rename_released
from .publishing import publish
from .recognition import SOURCES

__all__ = [
    'LoadReport',
    'PretrainedViT',
    'SOURCES',
    'TARGETS',
    'convert',
    'init_then_load',
    'load_pretrained',
    'publish',
    'rename_released',
]
