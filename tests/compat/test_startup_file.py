"""The .pth file that imports cotap_mm when mmcv-lite is imported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STARTUP = Path(__file__).resolve().parents[2] / 'cotap_mm' / 'assets' / 'cotap_mm_mmcv_lite.pth'


@pytest.fixture
def site(tmp_path):
    """Function that runs code in a Python whose only site folder has packages of this content."""

    def run(code, **packages):
        for name, content in packages.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / '__init__.py').write_text(content)
        shutil.copy(STARTUP, tmp_path)
        start = f'import sys, site; site.addsitedir({str(tmp_path)!r}); '
        command = [sys.executable, '-I', '-S', '-c', start + code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.split()

    return run


OURS = 'import sys; print("cotap_mm", "mmcv" in sys.modules)'


def test_is_imported_before_mmcv_lite(site):
    assert site('import mmcv, mmcv', mmcv='print("mmcv")', cotap_mm=OURS) == [
        *('cotap_mm', 'False', 'mmcv')
    ]


def test_is_not_imported_before_other_packages(site):
    assert site('import json, other', other='', cotap_mm=OURS) == []


def test_is_not_imported_before_a_compiled_mmcv(site, tmp_path):
    code = f'open({str(tmp_path / "mmcv" / "_ext.cpython-x.so")!r}, "w").close(); import mmcv'
    assert site(code, mmcv='print("mmcv")', cotap_mm=OURS) == ['mmcv']


@pytest.mark.parametrize('ours', [{}, {'cotap_mm': 'raise ImportError("too old")'}])
def test_mmcv_works_without_cotap_mm(site, ours):
    assert site('import mmcv', mmcv='print("mmcv")', **ours) == ['mmcv']


def test_a_missing_mmcv_is_missing(site):
    code = """
try:
    import mmcv
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert site(f'exec({code!r})', cotap_mm=OURS) == ['mmcv']
