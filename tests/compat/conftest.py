"""Which operators a module of mmcv.ops calls, and a Python that has not imported it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
import torch

from tests.compat.compiled_operators import load_compiled
from tests.conftest import _NEEDS_SHARED, SHARED
from tests.helpers.warm_python import served_by

pytest.register_assert_rewrite('tests.compat.operator_helpers')

#: What OpenMMLab's libraries import, but transformers, since when it is imported is tested.
LIBRARIES = (
    'matplotlib.pyplot',
    'pandas',
    'pycocotools.coco',
    'scipy.optimize',
    'sklearn.gaussian_process',
    'torch',
    'torch.utils.tensorboard',
    'torchvision',
)


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


@pytest.fixture(scope='package')
def python(tmp_path_factory):
    """A Python that has imported :data:`LIBRARIES`, and no module of OpenMMLab or ours."""
    with served_by(sys.executable, tmp_path_factory.mktemp('warm'), *LIBRARIES) as path:
        code = 'import sys; print(*sys.modules)'
        done = subprocess.run([path, '-c', code], capture_output=True, text=True, check=True)
        tops = {name.split('.')[0] for name in done.stdout.split()}
        assert not tops & {'cotap_mm', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'mmdet'}
        yield path
