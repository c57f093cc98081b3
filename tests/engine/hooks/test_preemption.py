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


@pytest.fixture
def leaves_first(monkeypatch):
    """Rank 0 does not wait for the other one, which stays until both have returned from a test."""
    monkeypatch.setattr('cotap_mm.distributed.watch._WAIT_FOR_EXIT', 0.1)


@pytest.mark.dist
def test_one_rank_is_enough(tmp_path, monkeypatch, leaves_first):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('COTAP_TEST_FOLDER', str(tmp_path / 'run'))
    found = on_two_ranks(resume_work.stopped_by_signal, tmp_path)
    assert found == [dict(done=3, stopped=True)] * 2
    assert newest_good_checkpoint(tmp_path / 'run').name == 'iter_3.pth'


@pytest.mark.dist
def test_ranks_agree_every_few_steps(tmp_path, monkeypatch, leaves_first):
    """The exchange starts after one step, and all ranks carry it out after the next one."""
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('COTAP_TEST_FOLDER', str(tmp_path / 'run'))
    monkeypatch.setattr('cotap_mm.engine.hooks.preemption_hook._MOST_STEPS', 2)
    found = on_two_ranks(resume_work.stopped_late, tmp_path)
    # Exchanges start after iterations 1, 3 and 5, or with two steps in between 1, 5 and 9.
    assert found == [[(4, True), (6, True)]] * 2


def test_length_of_the_pause(monkeypatch):
    """All ranks use the same step time, the longest; a signal of the meantime is not lost."""
    monkeypatch.setattr('cotap_mm.engine.hooks.preemption_hook.world_size', lambda: 2)
    sent, received = [], []
    agreement = SimpleNamespace(is_running=False, start=sent.append)
    hook = PreemptionHook(agree_seconds=2)
    hook._agreement = agreement
    monkeypatch.setattr(PreemptionHook, 'received', property(lambda self: ''.join(received)))
    hook._agree(True)
    assert sent[0][:2] == [0, 1] and len(sent[0]) == 3
    agreement.is_running, agreement.finish = True, lambda: [0, 1, 0.5]
    received.append('SIGTERM')
    hook._agree(False)
    assert hook._wishes == ('', True) and hook._steps_left == 4
    agreement.is_running = False
    for _ in range(4):
        hook._agree(False)
    assert len(sent) == 1
    hook._agree(False)
    assert sent[1][:2] == [2, 0]
    for kind, name in ((1, 'SIGINT on another rank'), (2, 'SIGTERM'), (0, '')):
        assert hook._named([kind]) == name
    received.clear()
    assert hook._named([2]) == 'a signal on another rank'
    with pytest.raises(ValueError, match='agree_seconds must be a number >= 0, or None, got -1'):
        PreemptionHook(agree_seconds=-1)


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
    with pytest.raises(ValueError, match="such as SIGTERM, got 'TERM'"):
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
