"""Toy data set of drawn, textured objects."""

from __future__ import annotations
