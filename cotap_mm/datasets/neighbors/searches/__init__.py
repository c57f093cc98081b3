"""Exact and approximate search of neighbors, what it costs, and how it resumes."""

from __future__ import annotations
