"""``cotap doctor`` reports on this environment, and on one in which nothing is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cotap_mm.cli import doctor

ROOT = Path(__file__).resolve().parents[2]
# Starts cotap as its console script does, with the standard library only.
SCRIPT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
sys.argv[0] = '/somewhere/bin/cotap'
from cotap_mm.cli.main import cotap
cotap()
"""


def without_packages(*words):
    return subprocess.run(
        [sys.executable, '-I', '-S', '-c', SCRIPT, str(ROOT), *words],
        capture_output=True,
        text=True,
    )


def test_nothing_is_imported_if_asked(capsys):
    doctor.main(['--no-imports', '--json'])
    report = json.loads(capsys.readouterr().out)
    assert report['broken'] == [] and report['imports'] == {}
    assert report['versions']['torch'] and '0.1' in report['versions']['cotap_mm']


@pytest.mark.slow
def test_this_environment(capsys, tmp_path):
    doctor.main(['--work-dir', str(tmp_path / 'runs')])
    text = capsys.readouterr().out
    assert text.startswith('cotap doctor: ') and 'broken' not in text, text
    for name in ('torch', 'mmcv.ops', 'cotap_mm.models'):
        assert any(line.split()[:1] == [name] and ' s' in line for line in text.splitlines())
    assert not (tmp_path / 'runs').exists()


def test_without_any_package():
    done = without_packages('doctor', '--markdown')
    assert done.returncode == 1 and not done.stderr, done.stderr
    for name in ('torch', 'mmengine', 'mmcv', 'mmpretrain'):
        assert f'* broken: {name} >= ' in done.stdout
    assert 'pip install' in done.stdout


@pytest.mark.parametrize('words, status', [(['--help'], 0), (['--version'], 0), (['train'], 1)])
def test_other_commands_without_any_package(words, status):
    done = without_packages(*words)
    assert done.returncode == status, done.stderr
    if status:
        assert done.stderr.startswith('cotap: error: cotap_mm cannot start. torch >= 2.1 is')
        assert 'cotap doctor' in done.stderr and done.stderr.count('\n') == 1


def test_a_library_refuses_to_be_imported_without_its_packages():
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r}); import cotap_mm'
    done = subprocess.run([sys.executable, '-I', '-S', '-c', code], capture_output=True, text=True)
    assert done.returncode == 1 and 'ImportError: cotap_mm cannot start' in done.stderr
