"""Every tool runs in a folder of files that users mix up."""

from __future__ import annotations

import sys

import pytest

from tests.helpers.mistakes import write_everything
from tests.helpers.tool_loading import TOOLS, load_tool


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('mistakes')
    write_everything(place)
    return place


@pytest.fixture(scope='module')
def tools():
    """Cache of loaded tools."""
    sys.path[:0] = [str(TOOLS), str(TOOLS / 'studies')]
    loaded = {}
    yield lambda name: loaded[name] if name in loaded else loaded.setdefault(name, load_tool(name))
    del sys.path[:2]


@pytest.fixture(autouse=True)
def in_place(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.delenv('COTAP_TRACEBACK', raising=False)
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
