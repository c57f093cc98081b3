"""Launch trainings and tests: configs, preflight checks, Runners, commands."""

from __future__ import annotations
