"""A signal stops all ranks without a failure, whatever each of them is doing."""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import signal
import time

import pytest
import torch.distributed as dist

from cotap_mm import signals
from cotap_mm.command_line.tool import tool
from cotap_mm.distributed.failures import current_watch, report_unresponsive_ranks
from tests.helpers.forked_ranks import FORK, Ranks

pytestmark = [pytest.mark.dist, pytest.mark.skipif(FORK is None, reason='forks processes')]


class Waits:
    """Block each rank in Python, in a loop that polls, in a barrier, or in another call of C.

    Args:
        folder (Path): Folder in which each rank creates a file before it blocks.
        kinds (Sequence[str]): For each rank ``'python'``, ``'polls'``, ``'barrier'`` or ``'c'``.
    """

    def __init__(self, folder, kinds):
        self.folder, self.kinds = folder, kinds

    @tool
    def _wait(self, rank):
        with report_unresponsive_ranks():
            dist.barrier()
            (self.folder / f'waits_{rank}').touch()
            if self.kinds[rank] == 'barrier':
                dist.barrier()
            if self.kinds[rank] == 'c':
                collections.deque(map(ctypes.CDLL(None).usleep, itertools.repeat(100_000, 600)), 0)
            for _ in range(6000):
                time.sleep(0.1)
                if self.kinds[rank] == 'polls':
                    current_watch().check()

    def __call__(self, rank):
        try:
            self._wait(rank)
        finally:
            (self.folder / f'exited_{rank}').touch()


@pytest.mark.parametrize(
    'kinds, signaled',
    [
        (('python', 'barrier', 'barrier'), (0, 1, 2)),
        (('barrier', 'python', 'barrier'), (0, 1, 2)),
        (('c', 'c', 'c'), (0, 1, 2)),
        (('barrier', 'polls', 'python'), (2,)),
    ],
)
def test_rank_0_exits_last_and_with_status_75(tmp_path, monkeypatch, kinds, signaled):
    """Launchers kill the remaining ranks when one has a nonzero status."""
    if 'c' in kinds:
        monkeypatch.setattr(signals, 'PATIENCE', 4.0)
        monkeypatch.setattr(signals._state, 'patience', 4.0)
    monkeypatch.setattr('cotap_mm.distributed.watch._WAIT_FOR_EXIT', 5.0)  # no atexit
    with Ranks(Waits(tmp_path, kinds), tmp_path, world=3, timeout=60) as ranks:
        for rank in range(3):
            ranks.wait_for(tmp_path / f'waits_{rank}')
        time.sleep(0.5)
        for rank in signaled:
            os.kill(ranks.pid(rank), signal.SIGUSR1)
        codes = {rank: ranks.exit_code(rank, 40) for rank in (1, 2)}
        is_last = ranks.processes[0].is_alive()
        codes[0] = ranks.exit_code(0, 40)
    logs = [ranks.log(rank) for rank in range(3)]
    assert codes == {0: 75, 1: 0, 2: 0} and is_last, logs
    for log in logs:
        assert 'SIGUSR1' in log and 'stopped with status 75. Nothing had to be saved' in log
        assert 'error' not in log and 'failed' not in log
