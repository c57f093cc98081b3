"""A signal makes a run save and stop; a second one stops it immediately."""

from __future__ import annotations

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest

from cotap_mm.engine import PreemptionHook
from cotap_mm.engine.hooks import EXIT_STATUS, was_preempted
from cotap_mm.engine.launch import runner as launch
from cotap_mm.engine.resume import work_folder
from cotap_mm.engine.resume.checkpoints import newest_good_checkpoint
from cotap_mm.errors import UserError
from tests.helpers import resume_work
from tests.helpers.rank_work import on_two_ranks


def with_signal(at, **options):
    return [
        dict(type='PreemptionHook'),
        dict(type='SignalHook', at=at, _scope_='mmengine', **options),
    ]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1'])
def test_saves_and_stops_after_the_step(tmp_path, monkeypatch, name):
    before = signal.getsignal(signal.SIGTERM)
    runner = resume_work.train(tmp_path, 6, num_workers=1, hooks=with_signal(2, name=name))
    assert was_preempted(runner) and runner.iter == 3
    assert newest_good_checkpoint(tmp_path).name == 'iter_3.pth'
    assert signal.getsignal(signal.SIGTERM) == before
    runner = resume_work.train(tmp_path, 6, resume=True, hooks=with_signal(99))
    assert not was_preempted(runner) and runner.iter == 6


@pytest.mark.slow
def test_waits_for_the_end_of_an_accumulation(tmp_path):
    options = {'optim_wrapper.accumulative_counts': 3}
    runner = resume_work.train(tmp_path, 8, hooks=with_signal(3), **options)
    # Partially accumulated gradients cannot be saved, so saves at other iterations are delayed.
    assert runner.iter == 6
    assert sorted(path.name for path in tmp_path.glob('iter_*.pth')) == ['iter_3.pth', 'iter_6.pth']


@pytest.mark.dist
def test_one_rank_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('COTAP_TEST_FOLDER', str(tmp_path / 'run'))
    found = on_two_ranks(resume_work.stopped_by_signal, tmp_path)
    assert found == [dict(done=3, stopped=True)] * 2
    assert newest_good_checkpoint(tmp_path / 'run').name == 'iter_3.pth'


def test_exit_status(monkeypatch):
    hook = PreemptionHook()
    hub = SimpleNamespace(runtime_info={})
    runner = SimpleNamespace(hooks=[hook], train=lambda: None, message_hub=hub)
    launch.train(runner)
    for name, status in (('SIGTERM', EXIT_STATUS), ('SIGINT on another rank', 130)):
        hook.stopped_by = name
        with pytest.raises(SystemExit, match='No checkpoint has been saved yet') as ended:
            launch.train(runner)
        assert ended.value.code == status
    assert EXIT_STATUS == 75


@pytest.mark.parametrize(
    'variables, restarted',
    [
        ({}, False),
        (dict(SLURM_RESTART_COUNT='0'), False),
        (dict(SLURM_RESTART_COUNT='2'), True),
        (dict(TORCHELASTIC_RESTART_COUNT='1'), True),
    ],
)
def test_restarts_are_detected(monkeypatch, variables, restarted):
    for name in ('SLURM_RESTART_COUNT', 'TORCHELASTIC_RESTART_COUNT'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert work_folder.is_restart() is restarted


def test_unknown_signal():
    with pytest.raises(ValueError, match="signals must be names such as SIGTERM, got 'TERM'"):
        PreemptionHook(['TERM'])
    assert os.name != 'posix' or PreemptionHook(['SIGHUP']).signals == [signal.SIGHUP]


@pytest.mark.slow
@pytest.mark.parametrize(
    'when, images',
    [
        ('training', 'toy/train-scene-32px-seed0/000005'),
        ('neighbours', 'toy/train-scene-32px-seed0/000005'),
    ],
)
def test_image_of_a_dead_worker_is_reported(tmp_path, monkeypatch, when, images):
    monkeypatch.setenv('COTAP_TEST_CRASH', f'{when} SIGKILL')
    crashing = {'train_dataloader.dataset.patch.type': 'CrashingScenes'}
    with pytest.raises(
        RuntimeError,
        match='a worker of the data loader died .*'
        f'reading one of: {images}. If it .*start again .a training with --resume',
    ):
        resume_work.train(tmp_path, 6, num_workers=1, **crashing)


@pytest.mark.slow
@pytest.mark.parametrize('when', ['training', 'neighbours'])
def test_image_of_a_hanging_worker_is_reported(tmp_path, monkeypatch, when):
    monkeypatch.setenv('COTAP_TEST_CRASH', f'{when} SIGSTOP')
    monkeypatch.setenv('COTAP_DIST_TIMEOUT', '4')
    monkeypatch.setattr('cotap_mm.distributed.timeouts._MIN_SILENCE', 0)
    crashing = {'train_dataloader.dataset.patch.type': 'CrashingScenes'}
    others = multiprocessing.active_children()
    with pytest.raises(
        UserError,
        match='no worker of the data loader has made progress for '
        r'\d+ s; processes \d+ \(stopped by a signal\), reading '
        'toy/train-scene-32px-seed0/000005. Check the disk, then start again',
    ):
        resume_work.train(tmp_path, 6, num_workers=1, **crashing)
    own = set(multiprocessing.active_children()) - set(others)
    for child in own:
        child.join(20)
    assert not any(child.is_alive() for child in own)
