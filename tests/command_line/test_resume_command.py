"""The command to resume that an interrupted training prints."""

from __future__ import annotations

import shlex
import sys

import pytest

from cotap_mm.command_line import resume_command as module
from cotap_mm.command_line.resume_command import resume_command

LAUNCHED = ('WORLD_SIZE', 'LOCAL_WORLD_SIZE', module.VARIABLE)


@pytest.fixture(autouse=True)
def started_by_cotap(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'argv', ['cotap train'])
    monkeypatch.setattr(module.shutil, 'which', lambda name: f'/bin/{name}')


@pytest.mark.parametrize(
    'typed, expected',
    [
        (['c.py'], 'cotap train c.py --resume'),
        (['c.py', '--resume'], 'cotap train c.py --resume'),
        (
            ['c.py', '--images', 'my images', '--overwrite', '--cfg-options', 'a.b=1'],
            "cotap train c.py --images 'my images' --cfg-options a.b=1 --resume",
        ),
        (['--overw', 'c.py', '--launcher', 'none'], 'cotap train c.py --resume'),
        (['c.py', '--launcher=none', '--local_rank', '0'], 'cotap train c.py --resume'),
    ],
)
def test_single_process(typed, expected):
    assert resume_command(typed) == expected
    # The printed line gives the same arguments again.
    assert resume_command(shlex.split(expected)[2:]) == expected


@pytest.mark.parametrize(
    'program, expected',
    [
        ('cotap train', 'python -m cotap_mm train'),
        ('tools/train.py', 'python tools/train.py'),
        ('/a b/train.py', "python '/a b/train.py'"),
    ],
)
def test_program(monkeypatch, program, expected):
    monkeypatch.setattr(sys, 'argv', [program])
    monkeypatch.setattr(module.shutil, 'which', lambda name: None)
    assert resume_command(['c.py']) == f'{expected} c.py --resume'


@pytest.mark.parametrize(
    'variables, expected',
    [
        (('2', '2', None), 'cotap train c.py --gpus 2 --resume'),
        (('4', '2', None), ''),
        (('4', None, None), ''),
        (('2', '2', 'cotap train c.py --gpus 2 --seed 1'), 'cotap train c.py --gpus 2 --seed 1'),
        (('1', '1', 'of another run'), 'cotap train c.py --resume'),
    ],
)
def test_several_processes(monkeypatch, variables, expected):
    for name, value in zip(LAUNCHED, variables):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert resume_command(['c.py', '--launcher', 'pytorch']) == expected
