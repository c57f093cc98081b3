"""Error reports and exit statuses of the command-line tools."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from cotap_mm.command_line.tool import (
    describe_environment,
    report_user_errors,
    slow_imports,
    tool,
)
from cotap_mm.errors import UserError
from tests.helpers.tool_errors import DiskIsFull, exit_code_of


def test_a_user_error_is_always_reported_in_one_sentence():
    text = 'error: the disk of w is full; delete something\n(COTAP_TRACEBACK=1 shows where)'
    assert exit_code_of(DiskIsFull('the disk of w is full;\ndelete something')) == text
    assert (
        exit_code_of(UserError('x'), during_setup=True)
        == 'error: x\n(COTAP_TRACEBACK=1 shows where)'
    )


@pytest.mark.parametrize(
    'error, message',
    [
        (ValueError('k must be positive'), 'k must be positive'),
        (FileNotFoundError('a is missing'), 'a is missing'),
        (PermissionError(13, 'Permission denied', 'a.npz'), 'a.npz: Permission denied'),
        (OSError(28, 'No space left on device', 'a.npz'), 'a.npz: No space left on device'),
        (NotADirectoryError(20, 'Not a directory', 'f/x'), 'f/x: Not a directory'),
        (ModuleNotFoundError("No module named 'lmdb'", name='lmdb'), 'pip install lmdb'),
        (
            KeyError(
                'Foo is not in the mmengine::model registry. Please check whether the value ...'
            ),
            'error: Foo is not in the mmengine::model registry; check the type',
        ),
        (TypeError("f() got an unexpected keyword argument 'x'"), 'unexpected keyword argument'),
        (AssertionError('Arch x is not in default archs'), 'Arch x is not'),
    ],
)
def test_set_up_errors_are_reported_in_one_sentence(error, message):
    assert message in exit_code_of(error, during_setup=True)
    with pytest.raises(type(error)):  # later it is unexpected
        tool(lambda: (_ for _ in ()).throw(error))()
    with pytest.raises(type(error)), report_user_errors(until=lambda: True):
        raise error


@pytest.mark.parametrize(
    'error',
    [
        AssertionError(),
        KeyError('x'),
        TypeError('x'),
        ZeroDivisionError('x'),
        RuntimeError('x'),
        IndexError('x'),
    ],
)
def test_other_errors_are_unexpected_even_during_set_up(error):
    with pytest.raises(type(error)), report_user_errors():
        raise error


def test_a_missing_package_is_reported_in_one_sentence(monkeypatch):
    @tool
    def main(error):
        with slow_imports():
            raise error

    missing = ModuleNotFoundError("No module named 'lmdb'", name='lmdb')
    with pytest.raises(SystemExit, match='^error: .*pip install lmdb\n.COTAP_TRACEBACK=1'):
        main(missing)
    with pytest.raises(OSError):  # of a library that is damaged
        main(OSError('libcudart.so: cannot open shared object file'))
    monkeypatch.setenv('COTAP_TRACEBACK', '1')
    with pytest.raises(ModuleNotFoundError):
        main(missing)


def test_errors_are_reported_without_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    assert 'out of memory' in exit_code_of(MemoryError('x'))
    assert exit_code_of(UserError('x')).startswith('error: x')
    assert 'PyTorch cannot be imported (ModuleNotFoundError)' in describe_environment()


def test_additional_types_of_user_errors():
    with pytest.raises(SystemExit, match='error: x'), report_user_errors(IndexError):
        raise IndexError('x')


def test_out_of_memory_is_a_user_error():
    assert 'out of memory; use a smaller batch' in exit_code_of(MemoryError())
    assert 'smaller images' in exit_code_of(
        torch.cuda.OutOfMemoryError('CUDA out of memory. Tried 3 GB')
    )
    with pytest.raises(SystemExit, match='out of memory'):
        tool(lambda: torch.empty(2**46))()


def test_a_killed_worker_is_a_user_error():
    text = exit_code_of(RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. '))
    assert (
        text.startswith(
            'error: a data loader worker died (DataLoader worker (pid 7) is '
            'killed by signal: Killed); check the memory'
        )
        and 'start again' in text
    )


def test_cotap_traceback_keeps_tracebacks(monkeypatch):
    monkeypatch.setenv('COTAP_TRACEBACK', '1')
    with pytest.raises(UserError):
        tool(lambda: (_ for _ in ()).throw(UserError('x')))()
    with pytest.raises(ValueError), report_user_errors():
        raise ValueError('x')


def test_other_statuses_are_unchanged():
    for code in (0, 2, 75):
        assert exit_code_of(SystemExit(code)) == code
    assert tool(lambda: None)() is None and sys.excepthook is sys.__excepthook__


def test_other_ranks_wait_for_rank_0_before_they_print(monkeypatch):
    slept = []
    monkeypatch.setattr(time, 'sleep', slept.append)
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    assert exit_code_of(UserError('x')).startswith('error: x') and not slept
    monkeypatch.setenv('RANK', '1')
    for during_setup in (False, True):
        assert exit_code_of(UserError('x'), during_setup).startswith('rank 1: error: x')
    assert slept == [3.0, 3.0]  # by then a launcher has killed it if rank 0 failed as well
    assert exit_code_of(SystemExit(75)) == 75 and len(slept) == 2


def test_only_the_first_rank_of_torchrun_prints_a_sentence(monkeypatch, tmp_path):
    """The first rank that exits prints it, whichever it is; the folder is that of torchrun."""
    monkeypatch.setenv('WORLD_SIZE', '3')
    codes = []
    for number, error in ((2, 'x'), (0, 'x'), (1, 'x'), (1, 'y')):
        monkeypatch.setenv('RANK', str(number))
        monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / f'{number}/error.json'))
        codes.append(exit_code_of(UserError(error)))
    assert codes[0].startswith('rank 2: error: x') and codes[1:3] == [1, 1]
    assert codes[3].startswith('rank 1: error: y')


SCRIPT = """
import sys
from cotap_mm.command_line.tool import tool

@tool
def main():
    if 'pipe' in sys.argv:
        for number in range(100_000):
            print(number)
    raise ZeroDivisionError('deep inside')

main()
"""


@pytest.mark.slow
def test_unexpected_errors_and_closed_pipes(tmp_path):
    script = tmp_path / 'some_tool.py'
    script.write_text(SCRIPT)
    run = [sys.executable, str(script)]
    done = subprocess.run([*run, '--an-option'], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    first, report = done.stderr.split('\nThis error is unexpected')
    assert 'Traceback' in first and first.rstrip().endswith('ZeroDivisionError: deep inside')
    assert 'report it with the traceback at' in report
    assert 'command: some_tool.py --an-option' in report
    for name in ('python 3', 'cotap_mm', 'torch 2', 'mmengine 0', 'numpy'):
        assert name in report
    if os.name == 'posix':
        piped = subprocess.run(
            f'{sys.executable} {script} pipe | head -2; echo ${{PIPESTATUS[0]}}',
            shell=True,
            executable='/bin/bash',
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert piped.stdout.split() == ['0', '1', '141'] and piped.stderr == ''
