"""Train across two network namespaces joined by a virtual cable, as two machines would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import ExitStack

import pytest
import torch

from tests.helpers.launched import DIST_TRAIN, checkpoint, environment, write_config

pytestmark = [pytest.mark.dist, pytest.mark.slow]
ITERS = 4
# Addresses for documentation (RFC 5737), not used elsewhere; no route leaves the namespaces.
ADDRESSES = ('192.0.2.1', '192.0.2.2')


def ip(*words):
    return subprocess.run(['ip', *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def machines():
    """Create two namespaces with an interface ``cable`` and an address each; yield their names."""
    if os.name != 'posix' or shutil.which('ip') is None:
        pytest.skip('network namespaces need Linux and iproute2 (Debian: apt install iproute2)')
    names = [f'cotap-{os.getpid()}-{number}' for number in range(2)]
    with ExitStack() as made:
        try:
            for name in names:
                ip('netns', 'add', name)
                made.callback(remove, name)
            ip(
                'link',
                'add',
                'cable',
                'netns',
                names[0],
                'type',
                'veth',
                'peer',
                'name',
                'cable',
                'netns',
                names[1],
            )
            for name, address in zip(names, ADDRESSES):
                ip('-n', name, 'address', 'add', f'{address}/24', 'dev', 'cable')
                for interface in ('lo', 'cable'):
                    ip('-n', name, 'link', 'set', interface, 'up')
        except subprocess.CalledProcessError as error:
            pytest.skip(
                'network namespaces cannot be made here, which takes root and a kernel '
                f'that allows it: {error.stderr.strip()}'
            )
        yield names


def remove(machine):
    """Remove a namespace with its interfaces and processes; children of torchrun outlive it."""
    for process in ip('netns', 'pids', machine).split():
        os.kill(int(process), signal.SIGKILL)
    ip('netns', 'delete', machine)


def bytes_received(machine):
    words = ip('-n', machine, '-s', 'link', 'show', 'cable').split('RX:')[1].split()
    return int(next(word for word in words if word.isdigit()))


def test_train_together(tmp_path, machines):
    config = write_config(tmp_path, ITERS, hooks=['DumpHook'])
    running = []
    try:
        for number, machine in enumerate(machines):
            variables = dict(NNODES='2', NODE_RANK=str(number), MASTER_ADDR=ADDRESSES[0])
            with open(tmp_path / f'output{number}', 'w') as output:
                running.append(
                    subprocess.Popen(
                        ['ip', 'netns', 'exec', machine, *DIST_TRAIN, str(config), '1'],
                        cwd=tmp_path,
                        env=environment(tmp_path, **variables),
                        stdout=output,
                        stderr=output,
                    )
                )
        statuses = [process.wait(timeout=300) for process in running]
    finally:
        for process in running:  # processes in the namespaces are removed with them
            process.kill()
            process.wait()
    outputs = [(tmp_path / f'output{number}').read_text()[-3000:] for number in range(2)]
    assert statuses == [0, 0], '\n'.join(outputs)
    state = checkpoint(tmp_path, ITERS)['run_state']
    assert state['world_size'] == 2 and state['samples_seen'] == 2 * 2 * ITERS
    first, second = (torch.load(tmp_path / f'rank{rank}.pth', weights_only=True) for rank in (0, 1))
    assert len(first) > 20 and first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    # The float32 gradients of each step were sent through the cable.
    gradients = 4 * sum(value.numel() for name, value in first.items() if 'teacher' not in name)
    for machine in machines:
        assert bytes_received(machine) > ITERS * gradients / 2, 'they did not talk to each other'
