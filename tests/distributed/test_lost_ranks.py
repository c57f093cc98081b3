"""A rank that dies, hangs or fails: the others exit within the timeout and report which one."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import ExitStack

import pytest
import torch
import torch.distributed as dist

from cotap_mm.distributed.failures import LostRank, report_unresponsive_ranks
from cotap_mm.distributed.timeouts import limit_of, timeout_of, within
from cotap_mm.errors import UserError
from tests.helpers.forked_ranks import FORK, Ranks

forked = pytest.mark.skipif(FORK is None, reason='forks processes')


class AllReduces:
    """Collectives until one rank is lost."""

    def __init__(self, folder, lost, how):
        self.folder, self.lost, self.how = folder, lost, how

    def __call__(self, rank):
        step = 0
        with report_unresponsive_ranks(lambda: step):
            for step in range(100):
                time.sleep(0.6 if step < 3 else 0)  # the ranks exchange their names
                if step == 3 and rank == self.lost:
                    (self.folder / self.how).touch()
                    self.be_lost()
                dist.all_reduce(torch.ones(1))

    def be_lost(self):
        if self.how == 'dies':
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == 'is stopped':
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.how == 'fails':
            raise OSError('the disk is full')
        time.sleep(600)


LOSSES = [('dies', 0), ('hangs', 2), ('is stopped', 0), ('is stopped', 1), ('fails', 1)]


@pytest.fixture(scope='module')
def lost_ranks(tmp_path_factory):
    """Start all groups at once, since they mostly wait."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr('cotap_mm.distributed.timeouts._MIN_SILENCE', 0)
        groups = {}
        for how, lost in LOSSES:
            folder = tmp_path_factory.mktemp('ranks')
            groups[how, lost] = stack.enter_context(
                Ranks(AllReduces(folder, lost, how), folder, world=3, timeout=8)
            )
        yield groups


@forked
@pytest.mark.dist
@pytest.mark.parametrize('how, lost', LOSSES)
def test_the_other_ranks_report_the_lost_one(lost_ranks, how, lost):
    ranks = lost_ranks[how, lost]
    others = [rank for rank in range(3) if rank != lost]
    codes = [ranks.exit_code(rank) for rank in others]
    assert (ranks.folder / how).exists()
    assert codes == [1, 1], 'hangs'
    for rank in others:
        log = ranks.log(rank)
        if how == 'fails':
            assert f'rank 1 (process {ranks.pid(1)} on ' in log
            assert ') failed: OSError: the disk is full' in log
        else:
            assert re.search(
                rf'rank {rank}, iteration 3: rank {lost} \(process {ranks.pid(lost)} on \S+\) '
                r'does not answer: it died \(out of memory\?\) or hangs',
                log,
            ), log


class Nothing:
    """Rank 1 dies before it has connected to the others."""

    def __call__(self, rank):
        raise AssertionError('the ranks connected')


@forked
@pytest.mark.dist
@pytest.mark.parametrize('variables', [{}, {'TORCHELASTIC_USE_AGENT_STORE': 'True'}])
def test_processes_that_do_not_connect(tmp_path, variables):
    store = None
    with Ranks(Nothing(), tmp_path, timeout=3, absent=1, **variables) as ranks:
        if variables:
            store = dist.TCPStore('127.0.0.1', ranks.port, is_master=True, wait_for_workers=False)
        assert ranks.exit_code(0) == 1
    log = ranks.log(0)
    assert (
        'the 2 processes of this run did not connect to 127.0.0.1:' in log
        if store is None
        else re.search('rank 0, start-up: rank 1 does not answer', log)
    ), log


class OtherErrors:
    """Raise errors that have nothing to do with other ranks."""

    def __call__(self, rank):
        for error in (
            RuntimeError('shapes do not fit'),
            ValueError('connection closed'),
            UserError('the loader timed out'),
        ):
            with pytest.raises(type(error)) as caught, report_unresponsive_ranks():
                raise error
            assert caught.value is error


@forked
@pytest.mark.dist
def test_other_errors_are_unchanged(tmp_path):
    with Ranks(OtherErrors(), tmp_path) as ranks:
        assert [ranks.exit_code(rank) for rank in (0, 1)] == [0, 0], ranks.log(0)


def test_timeout(monkeypatch):
    monkeypatch.delenv('COTAP_DIST_TIMEOUT', raising=False)
    assert timeout_of(7) == 7
    monkeypatch.setenv('COTAP_DIST_TIMEOUT', '2.5')
    assert timeout_of(7) == 2.5
    for bad in ('-1', 'soon', 'nan', 'inf'):
        monkeypatch.setenv('COTAP_DIST_TIMEOUT', bad)
        with pytest.raises(ValueError, match='COTAP_DIST_TIMEOUT must be a positive number'):
            timeout_of(7)
    assert limit_of(1800) < 1800


def test_within_adds_a_timeout_to_any_call():
    assert within(10, lambda: 'done') == 'done'
    with pytest.raises(TimeoutError):
        within(0.1, lambda: time.sleep(20))
    with pytest.raises(LostRank, match='mine'):
        within(10, lambda: _fail(LostRank('mine')))


def _fail(error):
    raise error
