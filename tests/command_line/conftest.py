"""Tests of tools run as one process, whatever started them."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def single_process(monkeypatch):
    for name in (
        'COTAP_TRACEBACK',
        'TORCHELASTIC_ERROR_FILE',
        'RANK',
        'WORLD_SIZE',
        'SLURM_NTASKS',
        'SLURM_PROCID',
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
