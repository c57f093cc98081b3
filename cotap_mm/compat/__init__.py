"""Version checks and workarounds; imported before anything else."""

from __future__ import annotations

from . import workarounds  # noqa: F401  (applies them)
