"""Trainings of two ranks with weights shared out; importable by the processes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from mmengine.dist import barrier
from mmengine.runner import FlexibleRunner

from cotap_mm.datasets import ToyScenes
from cotap_mm.distributed.fsdp import local_part, paired_parameters
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.engine.hooks import atomic_checkpoint_hook as safe_checkpoint_hook
from tests.helpers import resume_work

STRATEGY = dict(type='cotap_mm.CoTAPFSDPStrategy')
VERSION_1 = dict(STRATEGY, version=1)
STRATEGIES = dict(whole=None, older=VERSION_1, newer=STRATEGY)
#: An eps of Adam far above rounding errors, so that a bias of keys can be compared. Softmax does
#: not depend on that bias: its gradient is rounding errors, which differ between two ways to shard,
#: and Adam's default eps of 1e-8 lets them move the bias by most of the learning rate.
STEADY = {'optim_wrapper.optimizer.eps': 1e-4}


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
    'optim_wrapper.clip_grad': dict(max_norm=0.5),
}


def train(name, iters, **options):
    """In ``COTAP_TEST_FOLDER/name``."""
    return resume_work.train(Path(os.environ['COTAP_TEST_FOLDER']) / name, iters, **options)


def held(runner):
    """Name -> number of elements of the parameter that this rank holds."""
    with paired_parameters(runner.model):
        named = list(runner.model.named_parameters())
        return {name: local_part(param).numel() for name, param in named}


def copy_checkpoint(rank, source, target, step):
    folder = Path(os.environ['COTAP_TEST_FOLDER'])
    if rank == 0:
        (folder / target).mkdir()
        for path in (folder / source).glob(f'iter_{step}.pth*'):
            shutil.copy(path, folder / target)
    barrier()


def evaluation(num_images):
    """An evaluation whose number of forward passes may differ between ranks."""
    return dict(
        type='EvaluationHook',
        protocol='dispersion',
        num_classes=ToyScenes.num_classes,
        val=dict(type='ToyScenes', num_images=num_images, image_size=32),
        interval=100,
        options=dict(batch_size=1, image_size=32),
    )


def scores(runner):
    """What :func:`evaluation` measured before the first iteration."""
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'EvaluationHook')
    return [result.value for step, _, result in hook.history if step == 4]


def refusals(source):
    """Errors of runs that start from a checkpoint of another network, or resume it."""
    errors = []
    for resume in (False, True):
        errors.append([])
        for strategy in STRATEGIES.values():
            options = dict(load_from=source, resume=resume, strategy=strategy)
            try:
                train('other', 9, **options, **{'model.backbone.arch.embed_dims': 24})
            except ValueError as error:
                errors[-1].append(str(error))
    return errors


def bare(rank, source):
    """The state dict of a checkpoint, as a model in MMDistributedDataParallel would write it."""
    path = os.path.join(os.environ['COTAP_TEST_FOLDER'], 'bare.pth')
    if rank == 0:
        weights = torch.load(source, weights_only=False)['state_dict']
        torch.save({f'module.{name}': value for name, value in weights.items()}, path)
    barrier()
    return path


def all_runs(rank):
    """Train with version 2; resume a killed run with it, without FSDP, and with version 1.

    A run that was killed with version 1 is resumed with version 2, too. At last, weights are loaded
    at another image size and number of clusters, with and without FSDP, and not changed, and into
    another network.
    """
    runner = train('shared', 6, strategy=STRATEGY, **STEADY)
    assert isinstance(runner, FlexibleRunner)
    shares = held(runner)
    assert train('killed', 6, strategy=STRATEGY, kill_at=5, **STEADY) is None
    for name in ('then_whole', 'then_older'):
        copy_checkpoint(rank, 'killed', name, 4)
    options = dict(hooks=[evaluation(num_images=3)], resume=True, **STEADY)
    measured = scores(train('killed', 6, strategy=STRATEGY, **options))
    expected = scores(train('then_whole', 6, **options))
    older = train('then_older', 6, strategy=VERSION_1, resume=True, **STEADY)
    assert type(older.strategy).__name__ == 'WrappedStrategy'
    assert train('then_newer', 6, strategy=VERSION_1, kill_at=3, **STEADY) is None
    train('then_newer', 6, strategy=STRATEGY, resume=True, **STEADY)
    source = os.path.join(os.environ['COTAP_TEST_FOLDER'], 'shared', 'iter_6.pth')
    barrier()  # rank 0 has written it
    still = {'model.backbone.img_size': 64, 'optim_wrapper.optimizer.lr': 0.0}
    still['model.head.patch.num_clusters'] = 5
    for name, strategy in STRATEGIES.items():
        train(f'larger_{name}', 1, load_from=source, strategy=strategy, **still)
    train('bare', 1, load_from=bare(rank, source), strategy=STRATEGY, **still)
    return dict(shares=shares, measured=measured, expected=expected, errors=refusals(source))


def modern_runs(rank):
    """A network with registers, rotary positions, gated MLPs and layer scale, as above."""
    losses = []
    for name, options in (('whole', {}), ('shared', dict(strategy=STRATEGY))):
        runner = train(name, 4, **options, **MODERN)
        losses.append(float(runner.message_hub.get_scalar('train/loss').current()))
        if name == 'whole':
            weights = {
                key: value.detach() for key, value in unwrap(runner.model).named_parameters()
            }
    assert train('killed', 4, strategy=STRATEGY, kill_at=3, **MODERN) is None
    copy_checkpoint(rank, 'killed', 'then_whole', 2)
    copy_checkpoint(rank, 'whole', 'then_shared', 2)
    products = {'model.backbone.with_cp': 'products'}  # the same to the bit
    train('killed', 4, strategy=STRATEGY, resume=True, **{**MODERN, **products})
    runner = train('then_shared', 4, strategy=STRATEGY, resume=True, **MODERN)
    periods = unwrap(runner.model).backbone.rope.periods
    train('then_whole', 4, resume=True, **MODERN)
    train('frozen', 4, strategy=STRATEGY, **MODERN, **{'model.backbone.frozen_stages': 2})
    return dict(losses=losses, weights=weights, periods=periods)


def faults(rank):
    """A NaN on one rank only, and a disk on which rank 0 cannot begin to save one checkpoint."""
    atomic_checkpoint, calls = safe_checkpoint_hook.atomic_checkpoint, []

    def fails_once(path):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(20, 'Not a directory', str(path))
        return atomic_checkpoint(path)

    safe_checkpoint_hook.atomic_checkpoint = fails_once
    try:
        runner = train(
            'faults',
            4,
            strategy=STRATEGY,
            hooks=[dict(type='NonFiniteHook'), resume_work.poison(at=[2], rank=1)],
        )
    finally:
        safe_checkpoint_hook.atomic_checkpoint = atomic_checkpoint
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'NonFiniteHook')
    return dict(skipped=hook.total, saves=len(calls))


def diverged(rank):
    """A NaN on one rank, and no patience."""
    train(
        'diverged',
        4,
        strategy=STRATEGY,
        hooks=[dict(type='NonFiniteHook', patience=1), resume_work.poison(at=[2], rank=1)],
    )


def full_networks(rank):
    """What hooks say that need the full network."""
    errors = {}
    for name, hook, strategy in (
        ('compile', dict(type='CompileHook'), STRATEGY),
        ('evaluation', evaluation(num_images=3), VERSION_1),
    ):
        try:
            train(name, 2, strategy=strategy, hooks=[hook])
        except ValueError as error:
            errors[name] = str(error)
    return errors
