"""The interactive viewer."""

from __future__ import annotations
