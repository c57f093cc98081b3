"""Folders of image files: list them, and keep the result for the next start."""

from __future__ import annotations
