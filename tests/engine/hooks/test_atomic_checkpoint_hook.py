"""AtomicCheckpointHook: kept checkpoints, full disks, the end of a training."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cotap_mm.engine import AtomicCheckpointHook, PreemptionHook
from cotap_mm.engine.resume.checkpoints import checkpoint_error
from cotap_mm.files.atomic_write import UNFINISHED
from cotap_mm.files.temporary import partial_path
from tests.helpers.saved_checkpoints import flip_a_byte, make_runner, names, resumed


def test_newest_checkpoints_are_kept(tmp_path):
    tmp_path.joinpath(f'{UNFINISHED}{10**9}-iter_3.pth').write_bytes(b'of a run that was killed')
    make_runner(tmp_path).train()
    assert names(tmp_path) == ['iter_10.pth', 'iter_10.pth.json', 'iter_8.pth', 'iter_8.pth.json']
    saved = torch.load(tmp_path / 'iter_10.pth', weights_only=False)
    assert saved['message_hub']['runtime_info']['keep_ckpt_ids'] == [8, 10]
    assert saved['state_dict']['weight'] == -10 and saved['meta']['iter'] == 10
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_10.pth')


def full_disk(monkeypatch, is_full):
    """Make writing fail midway while ``is_full()``."""
    save_checkpoint = Runner.save_checkpoint

    def fails(self, out_dir, filename, *args, **options):
        save_checkpoint(self, out_dir, filename, *args, **options)
        if is_full(self.iter + 1):
            with open(os.path.join(out_dir, filename), 'rb+') as file:
                file.truncate(100)
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Runner, 'save_checkpoint', fails)


def test_training_continues_on_a_full_disk(tmp_path, monkeypatch):
    tried, messages = [], []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.atomic_checkpoint_hook.print_log',
        lambda text, **options: messages.append(text),
    )

    def is_full(step):
        tried.append(step)
        return 6 <= step < 9

    full_disk(monkeypatch, is_full)
    make_runner(tmp_path, iters=13, retry_interval=1).train()
    assert tried == [2, 4, 6, 7, 8, 9, 10, 12, 13]
    assert names(tmp_path)[::2] == ['iter_12.pth', 'iter_13.pth']
    assert len(messages) == 3 and 'No space left on device' in messages[0]
    assert 'retries in 1 iterations' in messages[0]


def test_previous_checkpoints_are_kept_on_a_full_disk(tmp_path, monkeypatch):
    full_disk(monkeypatch, lambda step: step >= 6)
    runner = make_runner(tmp_path, iters=9, final_wait=0.0)
    with pytest.raises(OSError, match='could not be written .* free disk space and use --resume'):
        runner.train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_4.pth']
    assert checkpoint_error(tmp_path / 'iter_4.pth') is None
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_4.pth')


def test_last_save_waits_for_free_space(tmp_path, monkeypatch):
    tries = []

    def is_full(step):
        tries.append(step)
        return len(tries) in (2, 3)

    full_disk(monkeypatch, is_full)
    clock = iter(range(1000))  # seconds
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.atomic_checkpoint_hook.time',
        SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None),
    )
    make_runner(tmp_path, iters=3, final_wait=60.0).train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_3.pth']
    saved = torch.load(tmp_path / 'iter_3.pth', weights_only=False)
    assert saved['meta']['iter'] == 3 and saved['state_dict']['weight'] == -3


def test_training_continues_if_a_checkpoint_cannot_be_deleted(tmp_path, monkeypatch):
    messages, unlink = [], Path.unlink
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.atomic_checkpoint_hook.print_log',
        lambda text, **options: messages.append(text),
    )

    def fails(path, *args, **options):
        if path.name == 'iter_2.pth':
            raise OSError(30, 'Read-only file system', str(path))
        unlink(path, *args, **options)

    monkeypatch.setattr(Path, 'unlink', fails)
    make_runner(tmp_path, iters=8).train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_6.pth', 'iter_8.pth']
    assert len(messages) == 1 and 'iter_2.pth is outdated and cannot be deleted' in messages[0]


@pytest.mark.slow
def test_last_save_stores_the_final_iteration(tmp_path, monkeypatch):
    """The file is named after the final iteration, not after the one whose save failed."""
    full_disk(monkeypatch, lambda step: step == 4)
    monkeypatch.setattr('cotap_mm.engine.hooks.atomic_checkpoint_hook._POLL', 0.01)
    make_runner(tmp_path, iters=5, save_last=False, final_wait=60.0).train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_5.pth']
    saved = torch.load(tmp_path / 'iter_5.pth', weights_only=False)
    assert saved['meta']['iter'] == 5 and saved['state_dict']['weight'] == -5


def test_folder_deleted_during_the_last_save(tmp_path, monkeypatch):
    write = AtomicCheckpointHook._write

    def deleted(self, runner, path, meta):
        outcome = write(self, runner, path, meta)
        if path.name == 'iter_4.pth' and not (tmp_path / 'deleted').exists():
            shutil.rmtree(tmp_path / 'run')
            (tmp_path / 'deleted').touch()
        return outcome

    monkeypatch.setattr(AtomicCheckpointHook, '_write', deleted)
    make_runner(tmp_path / 'run', iters=4).train()
    assert names(tmp_path / 'run') == ['iter_4.pth', 'iter_4.pth.json']
    assert checkpoint_error(tmp_path / 'run' / 'iter_4.pth') is None


def test_bad_interval():
    with pytest.raises(ValueError, match='retry_interval must be an integer >= 1, got 0'):
        AtomicCheckpointHook(retry_interval=0)


def test_resumes_from_the_valid_checkpoint(tmp_path):
    make_runner(tmp_path, iters=8).train()
    flip_a_byte(tmp_path / 'iter_8.pth')
    config = resumed(tmp_path)
    runner = make_runner(tmp_path, iters=10)
    runner._resume, runner._load_from = config.resume, config.load_from
    runner.train()
    assert runner.model.weight.item() == -10
    assert names(tmp_path)[::2] == ['iter_10.pth', 'iter_8.pth']
    assert checkpoint_error(tmp_path / 'iter_8.pth') is None  # trained again


def test_record_is_plain_json(tmp_path):
    make_runner(tmp_path, iters=2).train()
    record = json.loads((tmp_path / 'iter_2.pth.json').read_text())
    assert record['good'][0]['bytes'] == (tmp_path / 'iter_2.pth').stat().st_size


def test_temporary_files_of_this_run_are_removed_at_its_end(tmp_path, monkeypatch):
    """A failing disk may have prevented their deletion."""

    class Leave(Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            partial_path(tmp_path / 'iter_2.pth').write_bytes(b'half')

    runner = make_runner(tmp_path, iters=3)
    runner.register_hook(Leave())
    runner.train()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(UNFINISHED)]


class ClockHook(Hook):
    """Each iteration takes ten minutes."""

    minutes = 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        type(self).minutes += 10


@pytest.mark.parametrize(
    'options, expected',
    [
        ({}, [4, 8, 12, 14]),  # 30 minutes by default
        (dict(interval=5), [4, 5, 9, 10, 14]),
        (dict(interval_minutes=55), [6, 12, 14]),
        (dict(interval_minutes=None), [14]),
        (dict(interval_minutes=None, save_last=False), []),
    ],
)
def test_time_also_triggers_a_save(tmp_path, monkeypatch, options, expected):
    monkeypatch.setattr(ClockHook, 'minutes', 0)
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.atomic_checkpoint_hook.time',
        SimpleNamespace(monotonic=lambda: 60.0 * ClockHook.minutes),
    )
    options = dict(dict(interval=100, max_keep_ckpts=-1), **options)
    runner = make_runner(tmp_path, iters=14, **options)
    runner.register_hook(PreemptionHook())
    runner.register_hook(ClockHook())
    runner.train()
    steps = [int(path.stem.split('_')[1]) for path in tmp_path.glob('iter_*.pth')]
    assert sorted(steps) == expected
    if expected == [4, 8, 12, 14]:
        assert json.loads((tmp_path / 'iter_4.pth.json').read_text())
        assert torch.load(tmp_path / 'iter_4.pth', weights_only=False)['meta']['iter'] == 4


@pytest.mark.parametrize('minutes', [0, -1])
def test_interval_in_minutes_must_be_positive(minutes):
    with pytest.raises(ValueError, match='interval_minutes must be a number > 0, or None, got'):
        AtomicCheckpointHook(1, interval_minutes=minutes)
