"""The initial network is measured first, compared at the end, and never replaced by a worse one."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from cotap_mm.engine import AtomicCheckpointHook
from cotap_mm.engine.hooks.before_after_hook import BeforeAfterHook, describe_best
from cotap_mm.evaluation.hook import EvaluationHook, Score, scores_of
from cotap_mm.registry import HOOKS
from cotap_mm.weights import detect_checkpoint
from tests.helpers.saved_checkpoints import make_runner
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import as_text, toy_options

ROOT = Path(__file__).resolve().parents[3]
NAME = 'dense_retrieval/mIoU_student'


class Scripted(Hook):
    """Report given scores before training and after each iteration, as EvaluationHook does."""

    priority = 'LOW'

    def __init__(self, scores, with_other=False):
        self.scores, self.with_other = scores, with_other

    def report(self, runner, step):
        values = {NAME: self.scores[step]}
        if self.with_other:
            values['other'] = -self.scores[step]
        EvaluationHook._note_scores(runner, step, values)

    def before_train(self, runner):
        if not runner.iter:
            self.report(runner, 0)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.report(runner, runner.iter + 1)


def best_files(folder):
    return sorted(path.name for path in folder.glob('best_*.pth'))


def scripted(folder, scores, **options):
    options = dict(save_best='auto', rule='greater', **options)
    runner = make_runner(folder, iters=len(scores) - 1, max_keep_ckpts=-1, **options)
    runner.register_hook(Scripted(scores))
    runner.train()
    return runner


@pytest.mark.parametrize(
    'scores, best',
    [
        ([50, 40, 45, 49], None),
        ([50, 50, 50, 50], None),
        ([50, 60, 70, 65], 2),
        ([50, 40, 41, 51], 3),
    ],
)
def test_best_is_never_worse_than_the_initial_weights(tmp_path, scores, best):
    runner = scripted(tmp_path, scores)
    wanted = [] if best is None else [f'best_dense_retrieval_mIoU_student_iter_{best}.pth']
    assert best_files(tmp_path) == wanted
    assert runner.message_hub.get_info('best_score') == max(scores)
    if best:
        meta = torch.load(tmp_path / wanted[0], weights_only=False)['meta']
        assert meta['iter'] == best
    score = scores_of(runner)[NAME]
    assert score == Score(0, scores[0], best or 0, max(scores), 3, scores[3])
    text, level = describe_best(scores_of(runner), runner.message_hub.runtime_info.get('best_ckpt'))
    if best:
        assert text.startswith(f'best: {NAME} {max(scores):.2f} at iteration {best} (initial')
        assert wanted[0] in text and level == logging.INFO
    else:
        assert 'no network of this training has a better' in text and level == logging.WARNING


def test_score_of_a_resumed_run_may_be_the_best(tmp_path):
    """Its evaluation was interrupted by a signal, and is made up for before training."""
    options = dict(max_keep_ckpts=-1, save_best='auto', rule='greater')
    runner = make_runner(tmp_path, iters=1, **options)
    runner.register_hook(Scripted([50, 40]))
    runner.train()
    runner = make_runner(tmp_path, iters=2, **options)
    runner._resume, runner._load_from = True, str(tmp_path / 'iter_1.pth')
    hook = Scripted([50, 60, 55])
    hook.before_train = lambda runner: hook.report(runner, runner.iter)
    runner.register_hook(hook)
    runner.train()
    assert best_files(tmp_path) == ['best_dense_retrieval_mIoU_student_iter_1.pth']


def test_other_indicators(tmp_path):
    """A name of the user's, in which less is better for the first."""
    runner = make_runner(
        tmp_path, iters=2, max_keep_ckpts=-1, save_best=[NAME, 'other'], rule=['greater', 'greater']
    )
    runner.register_hook(Scripted([50, 60, 40], with_other=True))
    runner.train()
    assert best_files(tmp_path) == [
        'best_dense_retrieval_mIoU_student_iter_1.pth',
        'best_other_iter_2.pth',
    ]
    runner = make_runner(tmp_path / 'of_another', iters=2, save_best='absent', rule='greater')
    runner.register_hook(Scripted([50, 60, 40], with_other=True))
    runner.train()
    assert not best_files(tmp_path / 'of_another')


def write_config(folder, name='config', **options):
    """The demo at toy size, with evaluations; runs of one name share MMEngine's state."""
    small = toy_options(batch_size=2, iters=4)
    small['train_dataloader']['dataset'].update(patch=dict(num_images=6), neighbors='auto')
    small['model']['init_cfg'] = None
    labeled = dict(type='ToyScenes', num_images=2)
    small['custom_hooks'] = [
        dict(
            type='EvaluationHook',
            interval=2,
            num_classes=9,
            train=labeled,
            val=dict(labeled, split='val'),
            options=dict(image_size=32, k=1),
            measure=[('student', 'backbone'), ('teacher', 'filter')],
        )
    ]
    small['default_hooks'] = dict(checkpoint=dict(interval=2))
    small.update(options)
    path = folder / f'{folder.name}_{name}.py'
    path.write_text(f"_base_ = '{ROOT}/configs/cotap/demo.py'\n" + as_text(small))
    return str(path)


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.before_after_hook.print_log',
        lambda text, **options: found.append(text),
    )
    return found


@pytest.mark.slow
def test_default_command_prints_before_and_after(tmp_path, monkeypatch, lines):
    monkeypatch.chdir(tmp_path)
    train = load_tool('train').main
    train([write_config(tmp_path), '--work-dir', 'run'])
    table, verdict = lines
    assert table.startswith(
        'before -> after, from the initial weights to iteration 4 (losses: mean of the first and '
        'last 2 steps):'
    )
    rows = dict(re.findall(r'^  (\S+) +(\S+ +-> +\S+)', table, re.M))
    assert list(rows)[:2] == [
        'dense_retrieval/mIoU_student_backbone',
        'dense_retrieval/mIoU_teacher',
    ]
    assert {'monitor/feature_std', 'monitor/prototypes_in_use', 'loss_patch_ranking'} <= set(rows)
    before, after = map(float, rows['monitor/feature_std'].split(' -> '))
    assert 0 < before != after > 0
    assert verdict.startswith(('best: dense_retrieval', 'no network of this training'))
    # Resumed halfway, it compares with the same initial weights and ends in the same numbers.
    lines.clear()
    for file in (tmp_path / 'run').glob('iter_4.pth*'):
        file.unlink()
    train([write_config(tmp_path), '--work-dir', 'run', '--resume'])
    assert lines == [table, verdict]


@pytest.mark.slow
def test_measuring_changes_nothing_and_can_be_turned_off(tmp_path, monkeypatch, lines):
    monkeypatch.chdir(tmp_path)
    train = load_tool('train').main
    train([write_config(tmp_path, 'on', custom_hooks=[]), '--work-dir', 'on'])
    assert len(lines) == 1
    off = ['default_hooks.before_after=None']
    train(
        [write_config(tmp_path, 'off', custom_hooks=[]), '--work-dir', 'off', '--cfg-options', *off]
    )
    assert len(lines) == 1
    on, off = (detect_checkpoint(tmp_path / name / 'iter_4.pth').tensors for name in ('on', 'off'))
    assert on.keys() == off.keys() and all(on[name].equal(off[name]) for name in on)


def test_options():
    with pytest.raises(ValueError, match='num_images must be an integer >= 1, got 0'):
        BeforeAfterHook(num_images=0)
    assert HOOKS.get('BeforeAfterHook') is BeforeAfterHook
    assert AtomicCheckpointHook(interval=1).save_best is None
