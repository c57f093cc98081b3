"""Downstream trainings that are stopped by a signal or a full disk lose little progress."""

from __future__ import annotations

import errno
import os
import signal

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from cotap_mm.engine.hooks.required import complete_downstream_hooks
from cotap_mm.engine.resume.checkpoints import checkpoint_error
from tests.downstream.test_training import run, tool  # noqa: F401 (a fixture)

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='signals of POSIX')


@HOOKS.register_module(force=True)
class InterruptHook(Hook):
    """Send a scheduler's signal in a step, between steps, or in a validation."""

    priority = 'VERY_HIGH'
    when = None
    validated = 0

    def _kill(self, where, count):
        if self.when == (where, count):
            os.kill(os.getpid(), signal.SIGUSR1)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._kill('between', runner.iter)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._kill('step', runner.iter + 1)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        type(self).validated += 1
        self._kill('validation', runner.iter)


def write(path, **options):
    """Edit a config file; return the work folder and arguments of a training."""
    config = Config.fromfile(path)
    config.merge_from_dict(dict(options, custom_hooks=[dict(type='InterruptHook')]))
    config.dump(path)
    folder = path.parent / 'run'
    return folder, [
        str(path),
        '--work-dir',
        str(folder),
        '--seed',
        '0',
        '--init',
        str(path.parent / 'init.pth'),
    ]


def checkpoints(folder):
    found = sorted(path.name for path in folder.glob('*.pth'))
    assert all(checkpoint_error(folder / name) is None for name in found)
    assert all((folder / f'{name}.json').is_file() for name in found), 'incomplete file'
    return found


def interrupt(monkeypatch, capsys, arguments, where, at):
    """Train until a signal; return the printed text."""
    with monkeypatch.context() as patch:
        patch.setattr(InterruptHook, 'when', (where, at))
        with pytest.raises(SystemExit) as ended:
            tool('train')(arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 75, printed
    return printed


@pytest.mark.slow
@pytest.mark.parametrize(
    'where, at, done', [('step', 3, 3), ('between', 3, 3), ('validation', 4, 4), ('step', 4, 4)]
)
def test_iteration_based_loop_is_saved(run, monkeypatch, capsys, where, at, done):  # noqa: F811
    path, _ = run('voc_linear')
    folder, arguments = write(
        path,
        **{
            'train_cfg.max_iters': 6,
            'train_cfg.val_interval': 4,
            'default_hooks.checkpoint.interval': 100,
        },
    )
    monkeypatch.setattr(InterruptHook, 'validated', 0)
    interrupt(monkeypatch, capsys, arguments, where, at)
    assert InterruptHook.validated == (where == 'validation')
    assert checkpoints(folder) == [f'iter_{done}.pth']
    tool('train')([*arguments, '--resume'])
    assert checkpoints(folder) == [f'iter_{done}.pth', 'iter_6.pth']


@pytest.mark.slow
def test_weights_swapped_for_validation_are_not_saved(run, monkeypatch, capsys):  # noqa: F811
    path, _ = run('voc_linear')
    folder, arguments = write(
        path,
        **{
            'train_cfg.max_iters': 6,
            'train_cfg.val_interval': 4,
            'default_hooks.checkpoint.interval': 3,
            'default_hooks.ema': dict(type='EMAHook'),
        },
    )
    assert issubclass(HOOKS.get('EMAHook'), EMAHook)
    printed = interrupt(monkeypatch, capsys, arguments, 'validation', 4)
    assert f'The last checkpoint is {folder / "iter_3.pth"}, and --resume continues' in printed
    assert checkpoints(folder) == ['iter_3.pth']


@pytest.mark.slow
@pytest.mark.parametrize('where, at', [('step', 3), ('between', 3), ('step', 2)])
def test_epoch_based_loop_resumes_at_its_last_epoch(run, monkeypatch, capsys, where, at):  # noqa: F811
    """Two steps per epoch; a signal in the last step takes effect after the epoch is saved."""
    path, _ = run('imagenet_linear')
    folder, arguments = write(path, **{'train_cfg.max_epochs': 3, 'train_dataloader.batch_size': 1})
    printed = interrupt(monkeypatch, capsys, arguments, where, at)
    assert (
        f'SIGUSR1: stopped with status 75. The last checkpoint is {folder / "epoch_1.pth"}, '
        'and --resume continues from it'
    ) in printed
    assert checkpoints(folder) == ['epoch_1.pth']
    tool('train')([*arguments, '--resume'])
    assert checkpoints(folder) == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']


@pytest.mark.slow
def test_before_the_first_epoch_the_same_command_works(run, monkeypatch, capsys):  # noqa: F811
    path, _ = run('imagenet_linear')
    folder, arguments = write(path, **{'train_dataloader.batch_size': 1})
    said = interrupt(monkeypatch, capsys, arguments, 'step', 1)
    assert 'No checkpoint has been saved yet; start again with the same command' in said
    tool('train')(arguments)
    assert checkpoints(folder) == ['epoch_1.pth']


@pytest.mark.slow
def test_full_disk_does_not_abort_the_training(run, monkeypatch):  # noqa: F811
    path, _ = run('imagenet_linear')
    folder, arguments = write(path, **{'train_cfg.max_epochs': 2})
    save, calls = Runner.save_checkpoint, []

    def full_once(self, *args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, 'No space left on device')
        save(self, *args, **options)

    monkeypatch.setattr(Runner, 'save_checkpoint', full_once)
    tool('train')(arguments)
    assert checkpoints(folder) == ['epoch_2.pth']


@pytest.mark.slow
def test_truncated_checkpoint_is_skipped(run):  # noqa: F811
    path, _ = run('voc_linear')
    folder, arguments = write(path, **{'default_hooks.checkpoint.interval': 1})
    tool('train')(arguments)
    content = bytearray((folder / 'iter_2.pth').read_bytes())
    content[len(content) // 2] ^= 1
    (folder / 'iter_2.pth').write_bytes(content)
    tool('train')([*arguments, '--resume'])
    assert torch.load(folder / 'iter_2.pth', weights_only=True)['meta']['iter'] == 2
    assert checkpoints(folder) == ['iter_1.pth', 'iter_2.pth']


def test_options_of_a_config_are_kept():
    config = Config(
        dict(
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=7, save_best='auto'))
        )
    )
    complete_downstream_hooks(config)
    assert config.default_hooks == dict(
        checkpoint=dict(type='cotap_mm.AtomicCheckpointHook', interval=7, save_best='auto'),
        preemption=dict(type='cotap_mm.LoopPreemptionHook'),
    )
    config = Config(dict(default_hooks=dict(checkpoint=None, preemption=None)))
    complete_downstream_hooks(config)
    assert config.default_hooks == dict(checkpoint=None)
    config = Config(
        dict(
            default_hooks=dict(checkpoint=dict(type='mine.Hook')),
            custom_hooks=[dict(type='cotap_mm.PreemptionHook')],
        )
    )
    complete_downstream_hooks(config)
    assert config.default_hooks == dict(checkpoint=dict(type='mine.Hook'))
