"""Rank statistics of scores, by two algorithms, and the loss built from them."""

from __future__ import annotations
