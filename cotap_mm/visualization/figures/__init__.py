"""Figures that are returned as arrays."""

from __future__ import annotations
