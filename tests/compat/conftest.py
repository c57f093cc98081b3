"""Fixtures of the tests of MMCV's operators: which ones a module of mmcv.ops calls."""

from __future__ import annotations

import importlib
import os

import pytest
import torch

from tests.compat.compiled_operators import load_compiled
from tests.conftest import _NEEDS_SHARED, SHARED

pytest.register_assert_rewrite('tests.compat.operator_helpers')


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def compiled_extension(tmp_path_factory):
    """MMCV's compiled operators, which need not be installed; skips where there are none."""
    named = os.environ.get('MMCV_FIND_LINKS')
    folders = [named] if named else []
    return load_compiled(
        [*folders, SHARED / 'wheels'], tmp_path_factory.mktemp('compiled'), _NEEDS_SHARED
    )


def _user(monkeypatch, extension):
    def use(*names):
        for name in names:
            module = importlib.import_module(f'mmcv.ops.{name}')
            monkeypatch.setattr(module, 'ext_module', extension)

    return use


@pytest.fixture
def compiled(monkeypatch, compiled_extension):
    """Let a module of mmcv.ops, or several, call the compiled operators."""
    return _user(monkeypatch, compiled_extension)


@pytest.fixture
def stand_in(monkeypatch):
    """Let a module of mmcv.ops, or several, call the stand-in."""
    return _user(monkeypatch, importlib.import_module('cotap_mm.compat.mmcv_ops.extension'))
