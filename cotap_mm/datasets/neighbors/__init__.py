"""Nearest neighbors of images: features, search and the neighbor file."""

from __future__ import annotations
