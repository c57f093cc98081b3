"""Necks: features -> features."""

from __future__ import annotations

from .no_filter import NoFilter
from .object_aware_filter import ObjectAwareFilter
from .simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ['NoFilter', 'ObjectAwareFilter', 'SimpleFeaturePyramid']
