"""Transforms of images: crops for pre-training, and reading for downstream pipelines."""

from __future__ import annotations

from .load_image import LoadImage
from .multi_crop import MultiCrop

__all__ = ['LoadImage', 'MultiCrop']
