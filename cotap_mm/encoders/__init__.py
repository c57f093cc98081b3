"""Frozen backbones with one interface, for evaluation, visualization, neighbors and users."""

from __future__ import annotations
