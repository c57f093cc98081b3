"""Version checks and workarounds, applied on import before anything else."""

from __future__ import annotations

from . import workarounds  # noqa: F401  (applies them)
