"""Weights out: for other libraries, as graphs, and published."""

from __future__ import annotations

from .convert import TARGETS, convert
from .publish import publish

__all__ = ['TARGETS', 'convert', 'publish']
