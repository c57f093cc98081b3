"""Workers that hang abort the wait for a batch; workers that are slow or wait do not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch
from mmengine.config import Config
from torch.utils.data import DataLoader, Dataset

from cotap_mm.datasets import loader_watch
from cotap_mm.datasets.loader_watch import report_dead_worker, watch_loader
from cotap_mm.datasets.workers import ReadingSigns
from cotap_mm.engine.launch.runner import limit_loader_waits
from cotap_mm.errors import UserError
from tests.helpers.faults import time_limit

LIMIT = 2.5
_before = set()  # children of other tests
forked = pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks workers')


@pytest.fixture(autouse=True)
def _remember_children():
    _before.clear()
    _before.update(multiprocessing.active_children())


def new_children():
    """Child processes of this test."""
    return set(multiprocessing.active_children()) - _before


class Images(Dataset):
    """Numbers; reading index ``bad`` makes the worker call ``does``."""

    def __init__(self, bad, does):
        self.bad, self.does, self.signs = bad, does, ReadingSigns()

    def __len__(self):
        return 6

    def __getitem__(self, index):
        with self.signs.reading(index):
            if index == self.bad:
                self.does(self.signs)
        return torch.tensor(index)

    @property
    def latest_sign(self):
        return self.signs.latest

    @property
    def being_read(self):
        return [f'{index}.jpg' for index in self.signs.being_read]


def stop(signs):
    os.kill(os.getpid(), signal.SIGSTOP)


def hang(signs):
    time.sleep(600)


def wait_for_a_disk(signs):
    """Wait longer than the limit and report progress."""
    for _ in range(15):
        time.sleep(LIMIT / 10)
        signs.alive()


def all_of(dataset, num_workers=2):
    loader = watch_loader(DataLoader(dataset, 1, num_workers=num_workers), LIMIT)
    with report_dead_worker(lambda: dataset.being_read):
        return [int(batch) for batch in loader]


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    # Interval in which an idle worker wakes up.
    monkeypatch.setattr('torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL', LIMIT / 5)
    monkeypatch.setattr(loader_watch, 'print_log', lambda text, **_: lines.append(text))
    return lines


@pytest.mark.slow
@forked
@pytest.mark.parametrize('does, state', [(stop, 'stopped by a signal'), (hang, 'running')])
def test_a_worker_that_hangs(warnings, does, state):
    with pytest.raises(
        UserError,
        match=f'^no worker of the data loader has made progress for . '
        rf's; processes .*\d+ \({state}\).*, reading 3.jpg. Check the disk',
    ):
        all_of(Images(3, does))
    assert warnings and 'reading 3.jpg; waiting ' in warnings[0]
    assert not new_children()  # a remaining child would block the exit of this process


class Unwatched(Images):
    """Like a data set of another library, which does not report progress."""

    latest_sign = being_read = property()

    def __getitem__(self, index):
        if index == self.bad:
            self.does(self.signs)
        return torch.tensor(index)


def compute(signs):
    end = time.monotonic() + 1.5 * LIMIT
    while time.monotonic() < end:
        pass


@pytest.mark.slow
@forked
@pytest.mark.parametrize('does', [stop, hang])
def test_a_worker_of_any_data_set_that_hangs(warnings, does):
    with pytest.raises(
        UserError,
        match='^no worker of the data loader has made progress for . '
        's; processes .*, reading unknown images. Check the disk',
    ):
        list(watch_loader(DataLoader(Unwatched(3, does), 1, num_workers=2), LIMIT))
    assert not new_children()


@pytest.mark.slow
@forked
def test_a_stopped_worker_whose_batches_are_ready(warnings):
    """PyTorch receives a tensor from a worker without a limit, regardless of ``timeout``."""
    batches = iter(
        watch_loader(
            DataLoader(Unwatched(9, hang), 1, num_workers=1, timeout=600, prefetch_factor=4), LIMIT
        )
    )
    (worker,) = new_children()
    time.sleep(1)
    os.kill(worker.pid, signal.SIGSTOP)
    with time_limit(60), pytest.raises(UserError, match=rf'{worker.pid} .stopped by a signal.'):
        list(batches)


@pytest.mark.slow
@forked
def test_a_worker_of_any_data_set_that_computes_or_idles(warnings):
    loader = watch_loader(DataLoader(Unwatched(3, compute), 1, num_workers=2), LIMIT)
    assert [int(batch) for batch in loader] == list(range(6))
    assert [int(batch) for batch in loader] == list(range(6)), 'a second epoch'


@pytest.mark.slow
@forked
def test_workers_of_other_loaders_are_not_killed(warnings):
    others = iter(DataLoader(Images(9, hang), 1, num_workers=1))
    (other,) = new_children()
    with pytest.raises(UserError) as raised:
        all_of(Images(3, stop), num_workers=1)
    assert str(other.pid) not in str(raised.value) and other.is_alive()
    assert len(list(others)) == 6


def test_other_objects_are_returned_unchanged():
    assert watch_loader([1, 2], LIMIT) == [1, 2]
    assert [int(batch) for batch in watch_loader(DataLoader(torch.arange(3)), LIMIT)] == [0, 1, 2]


@pytest.mark.slow
@forked
def test_a_waiting_worker_is_not_killed(warnings):
    assert all_of(Images(3, wait_for_a_disk)) == list(range(6))


def test_a_loader_with_its_own_timeout():
    def late():
        raise RuntimeError('DataLoader timed out after 1 seconds')

    with (
        pytest.raises(
            UserError,
            match='a worker of the data loader hangs .DataLoader timed out after '
            '1 seconds.. It was reading one of: 3.jpg',
        ),
        report_dead_worker(lambda: ['3.jpg']),
    ):
        late()


@pytest.mark.slow
@forked
def test_a_worker_that_dies_while_a_tensor_is_received_from_it():
    """The connection ends before PyTorch notices that the worker is dead."""
    loader = iter(DataLoader(Images(9, stop), 1, num_workers=1, persistent_workers=True))
    next(loader)
    (worker,) = new_children()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # of PyTorch
    try:
        with (
            pytest.raises(UserError, match='worker of the data loader died.*one of: 3.jpg'),
            report_dead_worker(lambda: ['3.jpg']),
        ):
            os.kill(worker.pid, signal.SIGKILL)
            raise EOFError
        with pytest.raises(EOFError), report_dead_worker(lambda: ['3.jpg']):
            del loader
            raise EOFError
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_every_loader_of_a_config_gets_a_timeout(monkeypatch):
    monkeypatch.setenv('COTAP_DIST_TIMEOUT', '100')
    config = Config(
        dict(
            train_cfg=dict(type='ResumableTrainLoop'),
            test_dataloader=None,
            train_dataloader=dict(num_workers=2),
            val_dataloader=dict(num_workers=2),
        )
    )
    assert limit_loader_waits(config) == 80 == config.val_dataloader.timeout
    assert 'timeout' not in config.train_dataloader
    config = Config(
        dict(
            train_cfg=dict(type='IterBasedTrainLoop'),
            env_cfg=dict(dist_cfg=dict(timeout=50)),
            train_dataloader=dict(num_workers=2),
            val_dataloader=dict(num_workers=0, timeout=9),
            test_dataloader=dict(num_workers=1, timeout=9),
        )
    )
    monkeypatch.delenv('COTAP_DIST_TIMEOUT')
    limit_loader_waits(config)
    assert config.train_dataloader.timeout == 40
    assert 'timeout' not in config.val_dataloader and config.test_dataloader.timeout == 9


def test_circular_error_causes_terminate():
    """Python itself only breaks cycles of contexts."""
    error, cause = OSError('unreachable'), ValueError('unreadable')
    error.__cause__, cause.__context__ = cause, error
    with time_limit(20), pytest.raises(OSError) as caught, report_dead_worker(list):
        raise error
    assert caught.value is error
