"""Fixtures of the tests of encoders."""

from __future__ import annotations

from tests.visualization.conftest import make_algorithm  # noqa: F401
