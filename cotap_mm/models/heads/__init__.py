"""Heads: features -> scores."""

from __future__ import annotations

from .prototype_head import PrototypeHead

__all__ = ['PrototypeHead']
