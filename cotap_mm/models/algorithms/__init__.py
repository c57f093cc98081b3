"""The CoTAP algorithm."""

from __future__ import annotations

from .cotap import CoTAP

__all__ = ['CoTAP']
