"""Image sources: folders, lists and packed files, read robustly."""

from __future__ import annotations
