"""Compiled operators are found in wheels, and comparisons with them are not skipped unnoticed."""

from __future__ import annotations

import importlib
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

import pytest
import torch

from cotap_mm.compat.mmcv_ops import extension
from tests.compat.compiled_operators import WHEELS_TORCH, fitting_wheels, load_compiled

mmcv = pytest.importorskip('mmcv')
MEMBER = f'mmcv/_ext{EXTENSION_SUFFIXES[0]}'
OTHER_TORCH = '2.10.1+cpu'


def write_wheel(folder, member=MEMBER, version=mmcv.__version__):
    folder.mkdir(exist_ok=True)
    path = folder / f'mmcv-{version}-cp3-cp3-any.whl'
    with zipfile.ZipFile(path, 'w') as wheel:
        wheel.writestr(member, 'not a library')
    return path.resolve()


@pytest.fixture
def lite(monkeypatch):
    """The installed MMCV has no compiled operators."""
    monkeypatch.setitem(sys.modules, 'mmcv._ext', extension)


def test_the_compiled_operators_are_not_the_stand_in(compiled_extension, compiled, stand_in):
    pytest.importorskip('mmcv.ops')
    assert compiled_extension.__file__.endswith(EXTENSION_SUFFIXES[0])
    module = importlib.import_module('mmcv.ops.nms')
    before = importlib.import_module('mmcv._ext')
    compiled('nms', 'bbox')
    assert module.ext_module is compiled_extension
    assert importlib.import_module('mmcv._ext') is before
    stand_in('nms')
    assert module.ext_module is extension
    assert importlib.import_module('mmcv.ops.bbox').ext_module is compiled_extension


def test_wheels_must_fit_python_and_version(tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    fitting = [write_wheel(second), write_wheel(first)]
    write_wheel(tmp_path / 'other', member='mmcv/_ext.cpython-27-any.so')
    write_wheel(first, version='1.0.0')
    folders = [second, tmp_path / 'missing', first, tmp_path / 'other', str(second)]
    assert fitting_wheels(folders, mmcv.__version__) == [(path, MEMBER) for path in fitting]
    write_wheel(tmp_path / 'old', version='1.0.0')
    assert fitting_wheels([tmp_path / 'old'], mmcv.__version__) == []


def test_compiled_operators_of_the_installed_mmcv_come_first(tmp_path, monkeypatch):
    installed = ModuleType('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', installed)
    write_wheel(tmp_path / 'wheels')
    assert load_compiled([tmp_path / 'wheels'], tmp_path, 'no data') is installed


@pytest.mark.parametrize(
    'version, outcome',
    [(OTHER_TORCH, pytest.skip.Exception), (f'{WHEELS_TORCH}.0', pytest.fail.Exception)],
)
def test_a_wheel_for_this_torch_must_load(lite, tmp_path, monkeypatch, version, outcome):
    monkeypatch.setattr(torch, '__version__', version)
    wheel = write_wheel(tmp_path / 'wheels')
    with pytest.raises(outcome) as raised:
        load_compiled([tmp_path / 'wheels'], tmp_path, 'no data')
    start = f'{wheel.name} does not load with torch {version} ('
    assert str(raised.value).startswith(start) and '_ext' in str(raised.value)


@pytest.mark.parametrize('version, missing', [(OTHER_TORCH, False), (f'{WHEELS_TORCH}.1', True)])
def test_a_missing_wheel_is_missing_data(lite, tmp_path, monkeypatch, version, missing):
    """Which is a failure if the shared folder is there; no shared wheel is for another torch."""
    monkeypatch.setattr(torch, '__version__', version)
    with pytest.raises(pytest.skip.Exception) as raised:
        load_compiled([tmp_path], tmp_path, 'no data')
    start = 'no data: ' if missing else ''
    reason = f'no wheel of mmcv {mmcv.__version__} for this Python in {tmp_path}'
    assert str(raised.value).startswith(start + reason)
