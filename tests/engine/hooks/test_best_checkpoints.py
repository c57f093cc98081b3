"""Best and published checkpoints: atomic writes, and training on a full disk."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cotap_mm.engine import AtomicCheckpointHook
from cotap_mm.files.atomic_write import UNFINISHED
from tests.helpers.saved_checkpoints import make_runner


class Score(Hook):
    """Report the step number as a validation score."""

    priority = 'LOW'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        hook = next(hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook))
        hook.after_val_epoch(runner, dict(score=runner.iter, other=-runner.iter))


def train(folder, **options):
    runner = make_runner(folder, iters=6, **{'max_keep_ckpts': -1, **options})
    runner.register_hook(Score())
    runner.train()
    return runner


def names(folder, start):
    assert not [path for path in folder.iterdir() if path.name.startswith(UNFINISHED)]
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(start))


@pytest.fixture
def messages(monkeypatch):
    found = []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.best_checkpoints.print_log',
        lambda text, **options: found.append(text),
    )
    return found


def full_disk_for(monkeypatch, is_full):
    """Make writing a best checkpoint fail midway in some iterations."""
    plain = Runner.save_checkpoint

    def save(self, out_dir, filename, *args, **options):
        plain(self, out_dir, filename, *args, **options)
        if 'best_' in filename and is_full(self.iter):
            with open(f'{out_dir}/{filename}', 'rb+') as file:
                file.truncate(100)
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Runner, 'save_checkpoint', save)


def test_best_checkpoint_replaces_the_previous_one(tmp_path):
    runner = train(tmp_path, save_best='score', rule='greater')
    assert names(tmp_path, 'best_') == ['best_score_iter_5.pth']
    info = runner.message_hub.runtime_info
    assert info['best_score'] == 5 and info['best_ckpt'] == str(tmp_path / 'best_score_iter_5.pth')
    saved = torch.load(tmp_path / 'best_score_iter_5.pth', weights_only=False)
    assert saved['state_dict']['weight'] == -6


def test_best_checkpoint_is_kept_on_a_full_disk(tmp_path, monkeypatch, messages):
    full_disk_for(monkeypatch, lambda step: step >= 3)
    runner = train(tmp_path, save_best='score', rule='greater')
    assert runner.iter == 6 and names(tmp_path, 'best_') == ['best_score_iter_2.pth']
    saved = torch.load(tmp_path / 'best_score_iter_2.pth', weights_only=False)
    assert saved['state_dict']['weight'] == -3
    info = runner.message_hub.runtime_info
    assert info['best_score'] == 2 and info['best_ckpt'] == str(tmp_path / 'best_score_iter_2.pth')
    assert len(messages) == 3 and 'No space left on device' in messages[0]
    assert 'the previous best checkpoint is kept' in messages[0]


def test_disk_that_is_full_for_a_while(tmp_path, monkeypatch, messages):
    full_disk_for(monkeypatch, lambda step: step in (0, 2))
    train(tmp_path, save_best='score', rule='greater')
    assert names(tmp_path, 'best_') == ['best_score_iter_5.pth'] and len(messages) == 2


def test_two_scores(tmp_path, monkeypatch, messages):
    full_disk_for(monkeypatch, lambda step: step == 5)
    runner = train(tmp_path, save_best=['score', 'other'], rule='greater')
    assert names(tmp_path, 'best_') == ['best_other_iter_0.pth', 'best_score_iter_4.pth']
    assert runner.message_hub.runtime_info['best_score_other'] == 0


def test_published_checkpoints(tmp_path, monkeypatch, messages):
    (tmp_path / 'a').mkdir()
    train(tmp_path / 'a', published_keys=['state_dict', 'meta'], save_best='score', rule='greater')
    published = [name for name in names(tmp_path / 'a', '') if '.pth' in name and '-' in name]
    assert [name.split('-')[0] for name in published] == ['best_score_iter_5', 'iter_6']
    assert set(torch.load(tmp_path / 'a' / published[0], weights_only=False)) == {
        'state_dict',
        'meta',
    }

    def full(*args, **options):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('cotap_mm.engine.hooks.best_checkpoints.save_checkpoint', full)
    (tmp_path / 'b').mkdir()
    messages.clear()
    assert train(tmp_path / 'b', published_keys=['state_dict']).iter == 6
    assert not [name for name in names(tmp_path / 'b', '') if '.pth' in name and '-' in name]
    assert len(messages) == 1 and 'cannot be published (OSError' in messages[0]
