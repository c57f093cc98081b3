"""Optimizer wrappers, parameter groups and schedules."""

from __future__ import annotations
