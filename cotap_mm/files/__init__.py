"""Files that are complete or absent: atomic writes, locks, temporary files."""

from __future__ import annotations
