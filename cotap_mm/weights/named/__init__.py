"""Weights that have a name instead of a file: of well-known methods, and of timm."""

from __future__ import annotations
