"""Processes started by srun connect and watch each other like those of torchrun."""

from __future__ import annotations

import os
import socket
import sys
import time

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from cotap_mm.distributed.failures import current_watch
from cotap_mm.distributed.process_group import start_processes
from cotap_mm.distributed.slurm import set_variables_from_slurm
from cotap_mm.errors import UserError
from tests.helpers.forked_ranks import FORK
from tests.helpers.rank_work import free_port

NAMES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
SET_BEFORE = (
    *NAMES,
    'PORT',
    'SLURM_PROCID',
    'SLURM_NTASKS',
    'SLURM_LOCALID',
    'SLURM_NODELIST',
    'SLURM_JOB_NODELIST',
    'SLURM_STEP_NODELIST',
    'TORCHELASTIC_USE_AGENT_STORE',
)


@pytest.fixture(autouse=True)
def step(tmp_path, monkeypatch):
    """Variables of the fourth of six tasks, and a scontrol that lists the nodes."""
    for name in SET_BEFORE:
        monkeypatch.setenv(name, '')  # so that it is removed after the test
        monkeypatch.delenv(name)
    for name, value in dict(
        SLURM_PROCID='3', SLURM_NTASKS='6', SLURM_LOCALID='1', SLURM_STEP_NODELIST='gpu[07-09]'
    ).items():
        monkeypatch.setenv(name, value)
    tool = tmp_path / 'bin' / 'scontrol'
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames gpu[07-09]" ] || exit 1\n'
        'echo gpu07; echo gpu08; echo gpu09\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tool.parent}{os.pathsep}{os.environ["PATH"]}')
    return tool


def variables(port=None):
    set_variables_from_slurm(port)
    return tuple(os.environ[name] for name in NAMES)


def test_variables_of_torchrun_are_set(monkeypatch):
    assert variables() == ('3', '6', '1', 'gpu07', '29500')
    monkeypatch.delenv('MASTER_PORT')
    monkeypatch.setenv('PORT', '1234')
    assert variables() == ('3', '6', '1', 'gpu07', '1234')
    monkeypatch.setenv('MASTER_PORT', '2345')
    monkeypatch.setenv('MASTER_ADDR', '10.0.0.1')
    assert variables() == ('3', '6', '1', '10.0.0.1', '2345')
    assert variables(3456) == ('3', '6', '1', '10.0.0.1', '3456')


def test_a_single_node_needs_no_scontrol(monkeypatch, step):
    step.unlink()
    monkeypatch.setenv('SLURM_STEP_NODELIST', 'gpu07')
    assert variables() == ('3', '6', '1', 'gpu07', '29500')


def test_missing_variables_are_reported(monkeypatch, step):
    monkeypatch.setenv('SLURM_STEP_NODELIST', 'cpu[1-2]')
    with pytest.raises(ValueError, match=r'scontrol show hostnames cpu\[1-2\]: .*set MASTER_ADDR'):
        variables()
    monkeypatch.delenv('SLURM_STEP_NODELIST')
    with pytest.raises(ValueError, match='SLURM_STEP_NODELIST is not set.*; set MASTER_ADDR'):
        variables()
    monkeypatch.delenv('SLURM_NTASKS')
    with pytest.raises(ValueError, match='variables that srun sets.*tools/slurm_train.sh'):
        variables()


def task(number, port, folder, dies):
    """Run one of two tasks on this machine."""
    log = os.open(folder / f'{number}.log', os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)
    sys.stderr = os.fdopen(2, 'w', buffering=1)
    os.environ.update(
        SLURM_PROCID=str(number),
        SLURM_NTASKS='2',
        SLURM_LOCALID=str(number),
        SLURM_STEP_NODELIST='localhost',
        MASTER_PORT=str(port),
        LOCAL_RANK='0',
    )
    torch.set_num_threads(1)
    if dies and number == 1:
        dist.init_process_group = lambda *args, **options: (time.sleep(1.5), os._exit(9))
    config = Config(
        dict(
            launcher='slurm',
            model=dict(type='A', norm_cfg=dict(type='SyncBN')),
            env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=4)),
        )
    )
    try:
        start_processes(config)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        os._exit(1)
    watch = current_watch()
    assert (dist.get_backend(), dist.get_world_size(), dist.get_rank()) == ('gloo', 2, number)
    assert watch.size == 2 and os.environ['LOCAL_RANK'] == str(number)
    assert config.model.norm_cfg.type == 'BN'
    dist.barrier()


@pytest.mark.dist
@pytest.mark.skipif(FORK is None or torch.cuda.is_available(), reason='forks processes on a CPU')
@pytest.mark.parametrize('dies', [False, True])
def test_two_tasks(tmp_path, monkeypatch, dies):
    """One of them may die before it has joined the group; the other one reports which."""
    monkeypatch.setattr('cotap_mm.distributed.timeouts._MIN_SILENCE', 0)
    port, threads = free_port(), torch.get_num_threads()
    torch.set_num_threads(1)
    tasks = [FORK.Process(target=task, args=(number, port, tmp_path, dies)) for number in (0, 1)]
    for process in tasks:
        process.start()
    torch.set_num_threads(threads)
    for process in tasks:
        process.join(60)
        process.kill()
    log = (tmp_path / '0.log').read_text()
    assert [process.exitcode for process in tasks] == ([1, 9] if dies else [0, 0]), log
    if dies:
        assert (
            f'rank 0, start-up: rank 1 (process {tasks[1].pid} on {socket.gethostname()}) does not '
            'answer: it died (out of memory?) or hangs' in log
        )
