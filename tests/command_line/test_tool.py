"""Arguments, error reports and exit statuses of the command-line tools."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from cotap_mm import signals
from cotap_mm.command_line import tool as command_line
from cotap_mm.command_line.arguments import (
    KeyValues,
    Parser,
    device,
    out_file,
    out_folder,
    out_path,
    positive_float,
    whole_number,
)
from cotap_mm.command_line.tool import report_user_errors, tool
from cotap_mm.error_text import LONGEST, one_line, sentence_of
from cotap_mm.errors import UserError


class DiskIsFull(UserError):
    """A subclass of UserError, as parts of the package define."""


class FailingData(Dataset):
    """Dataset that raises a given exception in a worker."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.error


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


def exit_code_of(error, during_setup=False, **options):
    """Exit status, or message, of a tool in which an error is raised."""

    @tool
    def main():
        if during_setup:
            with report_user_errors(**options):
                raise error
        raise error

    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code


# ---- exits ---------------------------------------------------------------------------------


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


def test_ctrl_c(capsys):
    assert exit_code_of(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == 'interrupted\n'
    assert exit_code_of(KeyboardInterrupt('--resume continues')) == 130
    assert capsys.readouterr().err == 'interrupted; --resume continues\n'


@pytest.mark.parametrize('name', signals.SIGNALS)
def test_a_stop_signal(capsys, name):
    def main():
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(30)

    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(SystemExit) as end:
        tool(main)()
    assert end.value.code == 75
    assert capsys.readouterr().err == (
        f'{name}: stopped with status 75. Nothing had to be saved; start again with the same '
        'command\n'
    )
    assert signal.getsignal(getattr(signal, name)) == before


@pytest.mark.parametrize('is_stopped, status', [(False, 0), (True, 75)])
def test_signals_do_not_change_the_status_of_a_finished_command(is_stopped, status):
    script = f"""
import os, signal
from cotap_mm.command_line.tool import tool

class AtExit:
    def __del__(self):
        for name in {signals.SIGNALS}:
            os.kill(os.getpid(), getattr(signal, name))

@tool
def main():
    if {is_stopped}:
        os.kill(os.getpid(), signal.SIGTERM)

if __name__ == '__main__':
    os.at_exit = AtExit()
    main()
"""
    assert subprocess.run([sys.executable, '-c', script]).returncode == status


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


# ---- messages ------------------------------------------------------------------------------


def test_errors_of_workers_are_reduced_to_their_message():
    sentence = 'too many bad images (7 of 9); the first is a: b.png, see\n  the log'
    for error in (DiskIsFull(sentence), UserError('Traceback is a word')):
        with pytest.raises(UserError) as caught:
            list(DataLoader(FailingData(error), num_workers=1))
        assert sentence_of(caught.value) == one_line(str(error))
        assert exit_code_of(caught.value).splitlines()[0] == f'error: {one_line(str(error))}'
    with pytest.raises(ValueError) as caught:
        list(DataLoader(FailingData(ValueError('bad\nvalue')), num_workers=1))
    assert 'Original Traceback' in str(caught.value)
    assert sentence_of(caught.value) == 'bad value'


@pytest.mark.parametrize(
    'error, message',
    [
        (ValueError('a\n  b\n  c'), 'a; b; c'),
        (ValueError('these:\n  b\n  c'), 'these: b; c'),
        (ValueError('  a \n b  '), 'a b'),
        (ValueError(), 'ValueError'),
        (KeyError('key x'), 'key x'),
        (FileNotFoundError(2, 'No such file or directory', 'a'), 'a: No such file or directory'),
        (OSError(18, 'Cross-device link', 'a', None, 'b'), 'a: b: Cross-device link'),
        (OSError('plain'), 'plain'),
        (
            RuntimeError(
                'it failed\nTraceback (most recent call last):\n  File "x", line 1\n'
                'mod.Error: deep\nlines'
            ),
            'deep lines',
        ),
        (RuntimeError('it failed\nTraceback (most recent call last):\n  File "x"'), 'it failed'),
        (
            ModuleNotFoundError("No module named 'faiss'", name='faiss'),
            "No module named 'faiss'; install it with: pip install faiss-cpu",
        ),
        (ValueError('caf\udce9.jpg'), 'caf\udce9.jpg'),
    ],
)
def test_messages(error, message):
    assert sentence_of(error) == message


def test_long_messages_are_truncated():
    assert len(sentence_of(ValueError('x ' * 10_000))) <= LONGEST


# ---- arguments -----------------------------------------------------------------------------


@pytest.fixture
def refusal(capsys):
    """Function that returns the error message of a parser for wrong arguments."""

    def refuse(*arguments, **options):
        parser = Parser(prog='some_tool')
        parser.add_argument('config', nargs='?')
        parser.add_argument('--images')
        parser.add_argument('--kind', choices=['pca', 'clusters'])
        parser.add_argument('--set', nargs='+', action=KeyValues)
        for name, kind in options.items():
            parser.add_argument(f'--{name}', type=kind)
        with pytest.raises(SystemExit) as exit_:
            parser.parse_args([str(argument) for argument in arguments])
        text = capsys.readouterr().err
        assert exit_.value.code == 2 and text.count('\n') == 1
        assert text.startswith('some_tool: error: ')
        return text

    return refuse


def test_the_nearest_name_is_suggested(refusal):
    assert 'arguments: --imgaes (did you mean --images?)' in refusal('--imgaes', 'x')
    assert 'did you mean' not in refusal('--zebra')
    assert '(did you mean clusters?)' in refusal('--kind', 'cluster')
    assert 'did you mean' not in refusal('--kind', 'zebra')
    assert 'without an option this tool takes config' in refusal('a', 'b')


def test_an_empty_argument_is_not_the_current_folder(refusal):
    assert "argument 2, after '--images', is empty" in refusal('--images', '')
    assert 'argument 1 is empty' in refusal('')


@pytest.mark.parametrize(
    'text, message',
    [
        ('x', "must be KEY=VALUE, got 'x'"),
        ('=1', "got '=1'"),
        ('a=[1', 'unbalanced'),
        ('a=(1,2', 'unbalanced'),
    ],
)
def test_malformed_key_value_pairs(refusal, text, message):
    assert message in refusal('--set', 'b=1', text)


def test_valid_key_value_pairs():
    parser = Parser()
    parser.add_argument('--set', nargs='+', action=KeyValues)
    values = parser.parse_args(['--set', 'a=1', 'b.c=[1,(2,x)]', 'd==', 'e=1e-3']).set
    assert values == {'a': 1, 'b.c': [1, (2, 'x')], 'd': '=', 'e': 1e-3}


@pytest.mark.parametrize(
    'kind, text',
    [
        (whole_number(1), '0'),
        (whole_number(1), '1.0'),
        (whole_number(1), 'nan'),
        (whole_number(1), ' '),
        (whole_number(0, 65535), '65536'),
        (whole_number(0, 65535), '-1'),
        (positive_float, 'nan'),
        (positive_float, 'inf'),
        (positive_float, '0'),
        (positive_float, 'x'),
        (device, 'gpu'),
        (device, 'cuda:99'),
        (device, 'meta'),
        (device, 'cpu:x'),
    ],
)
def test_values_out_of_range(refusal, kind, text):
    assert repr(text) in refusal(f'--x={text}', x=kind) or text in refusal(f'--x={text}', x=kind)


def test_unwritable_outputs(refusal, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('x')
    for kind in (out_folder, out_file(), out_path):
        assert f'{tmp_path}/file is a file; choose another' in refusal(
            f'--x={tmp_path}/file/y/z', x=kind
        )
        assert 'too long' in refusal(f'--x={tmp_path}/{"x" * 300}/y', x=kind)
    assert 'is a file; choose a folder' in refusal(f'--x={tmp_path}/file', x=out_folder)
    assert 'is a folder' in refusal(f'--x={tmp_path}', x=out_file())
    assert 'must end in .npz or .npy' in refusal(f'--x={tmp_path}/a', x=out_file('.npz', '.npy'))
    monkeypatch.setattr(os, 'access', lambda *_: False)  # a read-only file system
    assert 'is not writable' in refusal(f'--x={tmp_path}/new/a', x=out_folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file']


def test_valid_values(tmp_path):
    assert (whole_number(0)('0'), positive_float('1e-3'), device('cpu')) == (0, 1e-3, 'cpu')
    for kind in (out_folder, out_path):
        assert kind(str(tmp_path / 'new/folder')) == str(tmp_path / 'new/folder')
    assert out_file('.npz')(str(tmp_path / 'new/a.npz')).endswith('a.npz')
    assert command_line.describe_environment().startswith('python 3')


@pytest.mark.skipif(not hasattr(signal, 'SIGCHLD'), reason='signals of POSIX')
def test_a_child_that_dies_after_the_end_causes_no_traceback():
    """PyTorch's handler of SIGCHLD raises for a dead loader worker, also while Python exits."""
    script = """
import atexit, os, signal, time
from cotap_mm.command_line.tool import tool

def fail(*_):
    raise RuntimeError('DataLoader worker is killed')

def lose_a_child():
    if os.fork() == 0:
        os._exit(1)
    time.sleep(0.5)

@tool
def main():
    atexit.register(lose_a_child)
    signal.signal(signal.SIGCHLD, fail)

main()
"""
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
