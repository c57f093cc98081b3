"""Fixtures of the downstream tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def unformatted_configs(monkeypatch):
    """MMEngine formats each config that it logs or saves, which takes seconds of every run."""
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
