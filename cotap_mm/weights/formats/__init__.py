"""Formats of weight files: where the ViT is, and what its tensors are called."""

from __future__ import annotations
