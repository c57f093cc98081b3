"""Trainings of two ranks with weights shared out; importable by the processes."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.runner import FlexibleRunner

from cotap_mm.engine.hooks import atomic_checkpoint_hook as safe_checkpoint_hook
from tests.helpers import resume_work

STRATEGY = dict(type='cotap_mm.CoTAPFSDPStrategy')


#: What a network of today has besides the layers of the first ViTs.
MODERN = {
    'model.backbone.arch': dict(
        embed_dims=16,
        num_layers=3,
        num_heads=2,
        feedforward_channels=24,
        ffn='swiglu',
        qk_norm=True,
        layer_scale=True,
        num_registers=2,
        rope=dict(theta=50.0),
        _delete_=True,
    ),
    'model.backbone.with_cp': True,
}


def train(name, iters, **options):
    """In ``COTAP_TEST_FOLDER/name``."""
    return resume_work.train(Path(os.environ['COTAP_TEST_FOLDER']) / name, iters, **options)


def all_runs(rank):
    """Whole and shared out; killed and resumed; each resumed as the other."""
    train('whole', 6)
    runner = train('shared', 6, strategy=STRATEGY)
    assert isinstance(runner, FlexibleRunner)
    shares = {name: param.numel() for name, param in runner.model.named_parameters()}
    assert train('killed', 6, strategy=STRATEGY, kill_at=5) is None
    train('killed', 6, strategy=STRATEGY, resume=True)
    assert train('then_whole', 6, strategy=STRATEGY, kill_at=3) is None
    train('then_whole', 6, resume=True)
    assert train('then_shared', 6, kill_at=3) is None
    train('then_shared', 6, strategy=STRATEGY, resume=True)
    return shares


def modern_runs(rank):
    """A network with registers, rotary positions, gated MLPs and layer scale, as above."""
    losses = []
    for name, options in (('whole', {}), ('shared', dict(strategy=STRATEGY))):
        runner = train(name, 4, **options, **MODERN)
        losses.append(float(runner.message_hub.get_scalar('train/loss').current()))
        if name == 'whole':
            weights = {key: value.detach() for key, value in runner.model.module.named_parameters()}
    assert train('killed', 4, strategy=STRATEGY, kill_at=3, **MODERN) is None
    train('killed', 4, strategy=STRATEGY, resume=True, **MODERN)
    assert train('then_shared', 4, kill_at=2, **MODERN) is None
    runner = train('then_shared', 4, strategy=STRATEGY, resume=True, **MODERN)
    periods = runner.model.module.backbone.rope.periods
    assert train('then_whole', 4, strategy=STRATEGY, kill_at=2, **MODERN) is None
    train('then_whole', 4, resume=True, **MODERN)
    train('frozen', 4, strategy=STRATEGY, **MODERN, **{'model.backbone.frozen_stages': 2})
    return dict(losses=losses, weights=weights, periods=periods)


def bad_numbers(rank):
    """A NaN on one rank only."""
    runner = train(
        'bad',
        4,
        strategy=STRATEGY,
        hooks=[dict(type='NonFiniteHook'), resume_work.poison(at=[2], rank=1)],
    )
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'NonFiniteHook')
    return dict(skipped=hook.total)


def diverged(rank):
    """A NaN on one rank, and no patience."""
    train(
        'diverged',
        4,
        strategy=STRATEGY,
        hooks=[dict(type='NonFiniteHook', patience=1), resume_work.poison(at=[2], rank=1)],
    )


def no_folder(rank):
    """A disk on which rank 0 cannot even begin to save, for one checkpoint."""
    atomic_checkpoint, calls = safe_checkpoint_hook.atomic_checkpoint, []

    def fails_once(path):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(20, 'Not a directory', str(path))
        return atomic_checkpoint(path)

    safe_checkpoint_hook.atomic_checkpoint = fails_once
    try:
        train('no_folder', 4, strategy=STRATEGY)
    finally:
        safe_checkpoint_hook.atomic_checkpoint = atomic_checkpoint
    return len(calls)


def whole_networks(rank):
    """What hooks that need the whole network say."""
    said = {}
    for name, hook in (
        ('compile', dict(type='CompileHook')),
        (
            'evaluation',
            dict(
                type='EvaluationHook',
                protocol='dispersion',
                num_classes=6,
                val=dict(type='ToyScenes', num_images=4),
            ),
        ),
    ):
        try:
            train(name, 2, strategy=STRATEGY, hooks=[hook])
        except ValueError as error:
            said[name] = str(error)
    return said
