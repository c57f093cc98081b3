"""Fixtures of the downstream tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def unformatted_configs(monkeypatch):
    """Skip the formatting of logged and saved configs, which takes seconds per run."""
    monkeypatch.setattr(
        'mmengine.config.config.FormatCode', lambda text, **_: (text, True), raising=False
    )
