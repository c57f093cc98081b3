"""Labeled data for the evaluations."""

from __future__ import annotations
