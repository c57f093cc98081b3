"""Commands that dist_train.sh and slurm_train.sh run, with stand-ins for python and srun."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture
def launch(tmp_path):
    """Run a launcher with a python and srun that print one argument per line."""
    for name in ('python', 'srun'):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (tmp_path / name).chmod(0o755)

    def run(script, *arguments, **environment):
        path = os.pathsep.join([str(tmp_path), '/usr/bin', '/bin'])
        done = subprocess.run(
            ['bash', str(TOOLS / script), *arguments],
            capture_output=True,
            text=True,
            env={'PATH': path, **environment},
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


@pytest.mark.parametrize(
    'script, usage',
    [('dist_train.sh', 'CONFIG GPUS'), ('slurm_train.sh', 'PARTITION JOB_NAME CONFIG')],
)
def test_usage(launch, script, usage):
    code, _, error = launch(script)
    assert code == 2 and usage in error


def test_dist_train_preserves_arguments_with_spaces(launch):
    code, words, error = launch('dist_train.sh', 'my config.py', '2', '--images', 'my images')
    assert code == 0, error
    assert words == [
        '-m',
        'torch.distributed.run',
        '--nnodes=1',
        '--node_rank=0',
        '--master_addr=127.0.0.1',
        '--master_port=29500',
        '--nproc_per_node=2',
        str(TOOLS / 'train.py'),
        'my config.py',
        '--launcher',
        'pytorch',
        '--images',
        'my images',
    ]


@pytest.mark.parametrize('port', ['MASTER_PORT', 'PORT'])
def test_dist_train_on_several_machines(launch, port):
    _, words, _ = launch(
        'dist_train.sh',
        'c.py',
        '8',
        NNODES='2',
        NODE_RANK='1',
        MASTER_ADDR='10.0.0.1',
        **{port: '1234'},
    )
    assert words[2:7] == [
        '--nnodes=2',
        '--node_rank=1',
        '--master_addr=10.0.0.1',
        '--master_port=1234',
        '--nproc_per_node=8',
    ]


def test_slurm_train(launch):
    _, words, _ = launch(
        'slurm_train.sh',
        'gpus',
        'job',
        'c.py',
        '--resume',
        GPUS='16',
        GPUS_PER_NODE='4',
        SRUN_ARGS='--time 1',
    )
    assert words[:2] == ['-p', 'gpus']
    assert {'--ntasks=16', '--ntasks-per-node=4', '--gres=gpu:4', '--time'} <= set(words)
    assert words[-6:] == ['-u', str(TOOLS / 'train.py'), 'c.py', '--launcher', 'slurm', '--resume']


def test_slurm_train_on_less_than_one_node(launch):
    _, words, _ = launch('slurm_train.sh', 'gpus', 'job', 'c.py', GPUS='2')
    assert {'--ntasks=2', '--ntasks-per-node=2', '--gres=gpu:2'} <= set(words)


@pytest.mark.parametrize(
    'job, again',
    [
        (dict(SLURM_JOB_ID='7'), ['scontrol requeue 7']),
        ({}, ['srun c.py --images a b', 'srun c.py --images a b --resume']),
    ],
)
def test_slurm_train_restarts_after_preemption(launch, tmp_path, job, again):
    """The first run exits with status 75: saved and stopped."""
    log = tmp_path / 'log'
    for name in ('srun', 'scontrol'):
        (tmp_path / name).write_text(f"""#!/bin/bash
            words="$*"; words=${{words##*-u */train.py }}
            echo "{name} ${{words/ --launcher slurm/}}" >> {log}
            [ "$(wc -l < {log})" -gt 1 ] || exit 75""")
        (tmp_path / name).chmod(0o755)
    code, _, error = launch('slurm_train.sh', 'gpus', 'job', 'c.py', '--images', 'a b', **job)
    lines = log.read_text().splitlines()
    assert code == 0, error
    assert lines == (again if len(again) == 2 else ['srun c.py --images a b', *again])


@pytest.mark.parametrize(
    'variables, asked, warns',
    [
        ({}, ['--signal=USR1@120'], False),
        (dict(GRACE='60'), ['--signal=USR1@60'], False),
        (dict(SLURM_JOB_ID='7'), [], True),
        (dict(SLURM_JOB_ID='7', SBATCH_SIGNAL='USR1@9'), [], False),
    ],
)
def test_slurm_train_requests_a_signal_if_srun_can_send_it(launch, variables, asked, warns):
    """The option has no effect on a step of an existing allocation, such as that of sbatch."""
    code, words, error = launch('slurm_train.sh', 'gpus', 'job', 'c.py', **variables)
    assert code == 0 and [word for word in words if word.startswith('--signal')] == asked
    assert ('submitted with sbatch --requeue --signal=USR1@120 (without B:)' in error) == warns
    assert warns or not error


def test_slurm_train_returns_other_exit_statuses(launch, tmp_path):
    (tmp_path / 'srun').write_text('#!/bin/sh\nexit 3\n')
    assert launch('slurm_train.sh', 'gpus', 'job', 'c.py')[0] == 3
