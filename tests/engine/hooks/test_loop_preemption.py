"""MMEngine's own loops on two ranks, one of which receives a signal."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from cotap_mm import signals
from cotap_mm.command_line.tool import tool
from cotap_mm.distributed.collectives import rank
from cotap_mm.engine.hooks import AtomicCheckpointHook, LoopPreemptionHook
from cotap_mm.engine.launch import runner as launch
from tests.helpers.forked_ranks import FORK, Ranks

pytestmark = [pytest.mark.dist, pytest.mark.skipif(FORK is None, reason='forks processes')]


class Line(BaseModel):
    """Model with one weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode='tensor'):
        return dict(loss=(self.weight - inputs).square().mean())


class SignalHook(Hook):
    """Send a signal to rank 1 in the middle of a step."""

    priority = 'VERY_HIGH'

    def __init__(self, at, name):
        self.at, self.name = at, name

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if rank() == 1 and runner.iter + 1 == self.at:
            os.kill(os.getpid(), getattr(signal, self.name))


class Training:
    """Training with three epochs of three steps."""

    def __init__(self, folder, by_epoch=False, at=None, name='', **saving):
        self.folder, self.by_epoch, self.at, self.name = folder, by_epoch, at, name
        self.saving = saving

    @tool
    def __call__(self, number):
        length = dict(max_epochs=3) if self.by_epoch else dict(max_iters=9)
        runner = Runner(
            Line(),
            str(self.folder / 'run'),
            DataLoader([dict(inputs=torch.ones(1))] * 3),
            train_cfg=dict(by_epoch=self.by_epoch, **length),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(
                checkpoint=AtomicCheckpointHook(
                    1 if self.by_epoch else 100, self.by_epoch, **self.saving
                ),
                preemption=LoopPreemptionHook(signals.TRAINING_SIGNALS),
            ),
            custom_hooks=[SignalHook(self.at, self.name)],
            experiment_name=f'rank{number}',
        )
        launch.train(runner)
        sys.exit(0)  # skip the barrier at the end


@pytest.mark.parametrize(
    'by_epoch, at, saved, name',
    [
        (False, 4, 'iter_4.pth', 'SIGTERM'),
        (False, 4, 'iter_4.pth', 'SIGINT'),
        (True, 5, 'epoch_1.pth', 'SIGTERM'),
        (True, 5, 'epoch_1.pth', 'SIGINT'),
        (True, 6, 'epoch_2.pth', 'SIGTERM'),
    ],
)
def test_both_ranks_stop_and_rank_0_reports(tmp_path, monkeypatch, by_epoch, at, saved, name):
    monkeypatch.setattr('cotap_mm.distributed.watch._WAIT_FOR_EXIT', 3.0)  # no atexit
    with Ranks(Training(tmp_path, by_epoch, at, name), tmp_path) as ranks:
        codes = [ranks.exit_code(number) for number in (0, 1)]
    logs = [ranks.log(number) for number in (0, 1)]
    assert codes == [130 if name == 'SIGINT' else 75, 0], logs
    sentence = f'The last checkpoint is {tmp_path / "run" / saved}, and --resume'
    if name == 'SIGINT':
        assert f'interrupted. {sentence}' in logs[0] and 'Traceback' not in ''.join(logs), logs
    assert sorted(path.name for path in (tmp_path / 'run').glob('*.pth'))[-1] == saved
    if by_epoch and name == 'SIGTERM':
        assert all(sentence in log for log in logs)


def test_both_ranks_save_by_the_clock_of_rank_0(tmp_path):
    with Ranks(Training(tmp_path, interval_minutes=1e-9), tmp_path) as ranks:
        codes = [ranks.exit_code(number) for number in (0, 1)]
    assert codes == [0, 0], [ranks.log(number) for number in (0, 1)]
    names = {path.name for path in (tmp_path / 'run').glob('*.pth')}
    assert names == {f'iter_{step}.pth' for step in range(1, 10)}
