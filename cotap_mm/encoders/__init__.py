"""Frozen backbones behind one contract, for evaluations, pictures, neighbors and users."""

from __future__ import annotations
