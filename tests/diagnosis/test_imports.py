"""Libraries are imported in another process, which may fail, crash or hang."""

from __future__ import annotations

import sys

import pytest

from cotap_mm.diagnosis.imports import try_imports

MODULES = {
    'fine': 'print("noise on stdout")',
    'faulty': 'raise ImportError("no symbol\\n  here")',
    'exiting': 'raise SystemExit("bye")',
    'ending': 'import os, sys\nsys.stderr.write("fatal: so it is\\n")\nsys.stderr.flush()\n'
    'os._exit(3)',
    'killed': 'import os, signal\nos.kill(os.getpid(), signal.SIGKILL)',
    'hanging': 'import time\ntime.sleep(60)',
}


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    for name, code in MODULES.items():
        (tmp_path / f'{name}.py').write_text(code)
    # A module of the standard library's name beside the probe must not matter.
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])


def test_failures_do_not_stop_the_others(capfd):
    results = try_imports(['faulty', 'exiting', 'fine', 'no_such_module'])
    assert [each.status for each in results.values()] == ['failed', 'failed', 'ok', 'failed']
    assert results['faulty'].error == 'ImportError: no symbol here'
    assert results['exiting'].error == 'SystemExit: bye'
    assert 'no_such_module' in results['no_such_module'].error
    assert results['fine'].seconds < 10
    assert capfd.readouterr().out == ''


@pytest.mark.parametrize(
    'name, status, error',
    [
        ('ending', 'crashed', 'fatal: so it is'),
        ('killed', 'crashed', 'SIGKILL'),
        ('hanging', 'timed out', 'no result within 1 s'),
    ],
)
def test_the_end_of_the_process_is_a_result(name, status, error):
    results = try_imports(['fine', name, 'faulty'], seconds=1)
    assert results['fine'].status == 'ok'
    assert (results[name].status, results[name].error) == (status, error)
    assert results['faulty'].status == 'not tried'
