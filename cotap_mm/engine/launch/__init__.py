"""Configs, checks before the start, Runners, and what the tools run."""

from __future__ import annotations
