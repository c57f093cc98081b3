"""``cotap train --gpus N`` starts its processes itself, and exits with their status."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from cotap_mm import signals
from cotap_mm.command_line import resume_command
from cotap_mm.commands import processes
from cotap_mm.errors import UserError
from tests.helpers.launched import environment, run, write_config
from tests.helpers.tool_loading import load_tool


@pytest.fixture
def launched(monkeypatch):
    """Record the command of torchrun instead of running it; an exception to raise."""
    record = SimpleNamespace(command=None, error=None, handlers=None)

    def start(arguments):
        record.command = arguments
        record.handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        if record.error:
            raise record.error

    monkeypatch.setattr(processes.torchrun, 'run', start)
    for name in ('PET_SIGNALS_TO_HANDLE', 'MASTER_PORT', 'PORT', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    for name in (resume_command.VARIABLE, 'PYTHONPATH', 'OMP_NUM_THREADS'):
        monkeypatch.setenv(name, os.environ.get(name, ''))  # restored after the test
    monkeypatch.setattr(sys, 'argv', ['cotap train'])
    return record


def failed(exitcode):
    return ChildFailedError('cotap', {1: ProcessFailure(1, 7, exitcode, '')})


def test_command_of_the_launcher(launched, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    load_tool('train').main(['my config.py', '--images', 'my images', '--gpus', '3'])
    command = launched.command
    assert command.nproc_per_node == '3' and command.master_addr == '127.0.0.1'
    assert command.training_script == 'cotap_mm' and command.module
    assert command.training_script_args == [
        'train', 'my config.py', '--images', 'my images', '--gpus', '3', '--launcher', 'pytorch'
    ]  # fmt: skip
    assert os.environ[resume_command.VARIABLE].endswith(
        "train 'my config.py' --images 'my images' --gpus 3 --resume"
    )
    assert 'SIGUSR1' in os.environ['PET_SIGNALS_TO_HANDLE']
    # torchrun finds the handlers of an ordinary process, and ours are back after it.
    assert launched.handlers == [before, signal.default_int_handler]
    assert signal.getsignal(signal.SIGTERM) == before and not signals.is_listening()


@pytest.mark.parametrize('words', [['--gpus', '1'], ['--gpus', '2', '--launcher', 'pytorch'], []])
def test_not_launched(launched, words):
    with pytest.raises(SystemExit, match='config c.py does not exist'):
        load_tool('train').main(['c.py', *words])
    assert launched.command is None


@pytest.mark.parametrize(
    'error, status',
    [
        (SignalException('', signal.SIGTERM), 75),
        (SignalException('', signal.SIGUSR1), 75),
        (SignalException('', signal.SIGINT), 130),
        (SignalException('', signal.SIGHUP), 128 + signal.SIGHUP),
        (failed(75), 75),
        (failed(130), 130),
        (failed(1), 1),
    ],
)
def test_exit_status(launched, error, status):
    launched.error = error
    with pytest.raises(SystemExit) as end:
        load_tool('train').main(['c.py', '--gpus', '2'])
    assert end.value.code == status


def test_a_killed_process_is_reported(launched):
    launched.error = failed(-signal.SIGKILL)
    with pytest.raises(SystemExit) as end:
        load_tool('train').main(['c.py', '--gpus', '2'])
    assert end.value.code.startswith('error: rank 1 (process 7) was killed by SIGKILL; if memory')
    assert 'train c.py --gpus 2 --resume\n' in end.value.code


def test_number_of_gpus(monkeypatch):
    processes.check_count(99)  # no GPU: CPU processes
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    processes.check_count(2)
    with pytest.raises(UserError, match='--gpus 3: PyTorch sees 2 GPUs; lower it, or check CUDA'):
        processes.check_count(3)


@pytest.mark.dist
@pytest.mark.slow
def test_ctrl_c_and_the_printed_command(tmp_path, warm_python):
    """The first start is the user's; the printed command is resumed without more imports."""
    config = write_config(tmp_path, 8, hooks=['WaitHook'])
    start = [sys.executable, '-m', 'cotap_mm', 'train', str(config), '--gpus', '2']
    with open(tmp_path / 'output', 'w') as output:
        process = subprocess.Popen(
            start, cwd=tmp_path, stdout=output, stderr=output, env=environment(tmp_path)
        )
    try:
        end = time.monotonic() + 150
        while not all((tmp_path / f'rank{rank}_at_3').exists() for rank in (0, 1)):
            assert process.poll() is None and time.monotonic() < end, (
                tmp_path / 'output'
            ).read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
    finally:
        process.kill()
    said = (tmp_path / 'output').read_text()
    assert status == 130 and 'Traceback' not in said and 'KeyboardInterrupt' not in said, said
    [sentence] = [line for line in said.splitlines() if line.startswith('interrupted. ')]
    assert f'The last checkpoint is {tmp_path}/run/iter_4.pth, and --resume' in sentence
    words = shlex.split(sentence.partition(' continues from it: ')[2])
    assert words[words.index('train') :] == ['train', str(config), '--gpus', '2', '--resume']
    (tmp_path / 'test_hooks.py').write_text(
        (tmp_path / 'test_hooks.py').read_text().replace('runner.iter == 3', 'False')
    )
    done = run([warm_python, *start[1:3], *words[words.index('train') :]], tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / 'run' / 'iter_8.pth').exists()
    assert done.stdout.count('training is complete: run/iter_8.pth') == 1


@pytest.mark.dist
@pytest.mark.slow
def test_an_error_of_the_user_is_one_sentence(tmp_path, warm_python):
    start = [warm_python, '-m', 'cotap_mm', 'train', 'nowhere.py', '--gpus', '2']
    done = run(start, tmp_path)
    assert done.returncode == 1 and done.stdout.count('error:') == 1, done.stdout
    assert 'config nowhere.py does not exist' in done.stdout and 'Traceback' not in done.stdout
