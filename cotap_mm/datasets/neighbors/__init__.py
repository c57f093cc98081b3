"""Nearest neighbors of images: the file, the features and the search."""

from __future__ import annotations
