"""Figures as arrays."""

from __future__ import annotations
