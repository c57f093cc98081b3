"""Image sources: folders, lists and packed files."""

from __future__ import annotations
