"""Checkpoint files, work folders, and resuming an interrupted run."""

from __future__ import annotations
