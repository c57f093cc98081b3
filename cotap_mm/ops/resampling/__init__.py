"""Resampling of image regions on any device."""

from __future__ import annotations

from .crops import resize_boxes, resize_region, resize_regions

__all__ = ['resize_boxes', 'resize_region', 'resize_regions']
