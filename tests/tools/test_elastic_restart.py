"""Two processes of torchrun: one dies, or all are stopped by a signal; the result is the same.

All start a Python that has imported everything; test_two_machines.py starts ``dist_train.sh``,
which calls torchrun, with the Python of the tests, and test_processes.py ``cotap train --gpus``.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.engine.resume.test_exact_resume import assert_same
from tests.helpers import sharding_work
from tests.helpers.fault_harness.processes import Ranks
from tests.helpers.launched import DIST_TRAIN, ROOT, checkpoint, environment, run, write_config
from tests.helpers.rank_work import free_port

pytestmark = [pytest.mark.dist, pytest.mark.slow]
ITERS = 8


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Checkpoint of an uninterrupted run of the same two ranks, which are forked here."""
    folder = tmp_path_factory.mktemp('whole')
    config = write_config(folder, ITERS)
    ranks = train_forked(folder, str(config))
    assert ranks.statuses == [0, 0], ranks.outputs
    return checkpoint(folder, ITERS)


def train_forked(folder, *line):
    """Run tools/train.py on two ranks that are forked here, which starts no interpreter."""
    sys.path.insert(0, str(folder))  # of test_hooks.py
    try:
        return Ranks(list(line), folder, 2, 'forked').run()
    finally:
        sys.path.remove(str(folder))


def steps(folder):
    """Logged iterations, in the order of the attempts."""
    return [
        [int(line.split('"step": ')[1].rstrip('}')) for line in path.read_text().splitlines()]
        for path in sorted((folder / 'run').glob('*/vis_data/scalars.json'))
    ]


def test_killed_rank_is_restarted(tmp_path, whole, warm_python):
    config = write_config(tmp_path, ITERS, hooks=['DieOnceHook'])
    done = run(
        [
            warm_python,
            '-m',
            'torch.distributed.run',
            '--max-restarts',
            '1',
            '--nproc_per_node',
            '2',
            '--master_port',
            str(free_port()),
            str(ROOT / 'tools' / 'train.py'),
            str(config),
            '--launcher',
            'pytorch',
        ],
        tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / 'has_died').exists()
    assert steps(tmp_path) == [[1, 2, 3, 4, 5], [5, 6, 7, 8]]
    assert_same(checkpoint(tmp_path, ITERS), whole)


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists() or not path.read_text():
        assert process.poll() is None and time.monotonic() < deadline, f'{path.name} never came'
        time.sleep(0.05)
    return int(path.read_text())


def stop(folder, command, name, whom, python):
    """Train until iteration 4, signal the launcher or all processes; return status and output."""
    with open(folder / 'output', 'w') as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=output,
            env=environment(folder, MASTER_PORT=str(free_port()), PYTHON=python),
        )
    ranks = []
    try:
        ranks = [wait_for(folder / f'rank{rank}_at_3', process) for rank in (0, 1)]
        process.send_signal(getattr(signal, name))
        if whom == 'all':
            time.sleep(0.5)  # torchrun has forwarded it
            for rank in ranks:
                os.kill(rank, getattr(signal, name))
        status = process.wait(timeout=120)
        ranks = []
    finally:
        process.kill()
        for rank in ranks:
            os.kill(rank, signal.SIGKILL)
    return status, (folder / 'output').read_text()


def test_signal_saves_and_stops_all_ranks(tmp_path, whole, warm_python):
    """Slurm signals all processes of a job, so each rank receives the signal twice."""
    config = write_config(tmp_path, ITERS, hooks=['WaitHook'])
    command = [*DIST_TRAIN, str(config), '2']
    status, output = stop(tmp_path, command, 'SIGTERM', 'all', warm_python)
    assert status == 1, output[-3000:]  # torchrun's own status after a signal
    assert 'SIGTERM: saving iteration 4 and stopping' in output
    assert steps(tmp_path) == [[1, 2, 3, 4]]

    ranks = train_forked(tmp_path, str(config), '--resume')
    assert ranks.statuses == [0, 0], ranks.outputs
    assert steps(tmp_path)[1:] == [[5, 6, 7, 8]]
    assert_same(checkpoint(tmp_path, ITERS), whole)


def test_launcher_forwards_sigusr1_and_fsdp_resumes(tmp_path, warm_python):
    line = [str(write_config(tmp_path, 5, hooks=['WaitHook'])), '--amp', '--cfg-options']
    line.append(f'strategy.type={sharding_work.STRATEGY["type"]}')
    command = [*DIST_TRAIN, line[0], '2', *line[1:]]
    status, output = stop(tmp_path, command, 'SIGUSR1', 'launcher', warm_python)
    assert status == 1, output[-3000:]
    assert 'SIGUSR1: saving iteration 4 and stopping' in output
    assert checkpoint(tmp_path, 4)['run_state']['world_size'] == 2
    printed = shlex.split(re.search('--resume continues from it: (.*)', output)[1])
    assert printed[2:] == [*line, '--gpus', '2', '--resume']
    ranks = train_forked(tmp_path, *line, '--resume')
    assert ranks.statuses == [0, 0], ranks.outputs
    assert steps(tmp_path) == [[1, 2, 3, 4], [5]]
    # test_fsdp.py compares a resumed run with an uninterrupted one.
    before, after = (checkpoint(tmp_path, step)['state_dict'] for step in (4, 5))
    assert before.keys() == after.keys()
    assert not torch.equal(before['backbone.cls_token'], after['backbone.cls_token'])


def test_hanging_rank_aborts_the_run(tmp_path, warm_python):
    config = write_config(tmp_path, ITERS, hooks=['StallHook'])
    done = run(
        [*DIST_TRAIN, str(config), '2'],
        tmp_path,
        MASTER_PORT=str(free_port()),
        COTAP_DIST_TIMEOUT='6',
        PYTHON=warm_python,
    )
    assert done.returncode == 1
    assert re.search(
        r'rank 0, iteration 3: rank 1 \(process \d+ on \S+\) does not answer: it died', done.stdout
    ), done.stdout[-3000:]
    assert steps(tmp_path) == [[1, 2, 3]] and (tmp_path / 'run' / 'iter_2.pth').is_file()
