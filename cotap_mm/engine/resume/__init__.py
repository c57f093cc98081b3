"""Checkpoints, and continuing an interrupted run."""

from __future__ import annotations
