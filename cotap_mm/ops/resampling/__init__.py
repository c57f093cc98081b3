"""Resampling of image regions on any device."""

from __future__ import annotations

from .crops import resize_region, resize_regions

__all__ = ['resize_region', 'resize_regions']
