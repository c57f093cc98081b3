"""Hooks for teacher, schedules, monitors and compilation; mixed precision."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.optim.scheduler import CosineAnnealingLR
from mmengine.runner import get_priority

from cotap_mm.engine import (
    CompileHook,
    MixedPrecisionOptimWrapper,
    MonitorHook,
    NonFiniteHook,
    ScheduleLengthHook,
    TeacherHook,
)
from cotap_mm.engine.hooks import teacher_hook
from tests.helpers.tiny import build_tiny


def runner_with(model, optim_wrapper, **kwargs):
    return SimpleNamespace(
        model=model,
        optim_wrapper=optim_wrapper,
        max_iters=10,
        iter=0,
        message_hub=mock.Mock(),
        **kwargs,
    )


def small_model():
    model = torch.nn.Linear(2, 2)
    model.teacher = mock.Mock()
    model.student = dict(layer=model)
    return model


def test_decay_follows_a_cosine():
    hook = TeacherHook(0.9, 1.0)
    assert hook.decay(0) == pytest.approx(0.9)
    assert hook.decay(0.5) == pytest.approx(0.95)
    assert hook.decay(1) == pytest.approx(1.0)
    with pytest.raises(ValueError, match='start'):
        TeacherHook(1.2)


def test_random_weights_are_reported_once_not_when_resumed(monkeypatch):
    """Also without our command line, by a Runner of MMEngine."""
    messages = []
    monkeypatch.setattr(teacher_hook, 'print_log', lambda text, **_: messages.append(text))
    model, hook = build_tiny(), TeacherHook()
    runner = runner_with(model, None, _load_from=None)
    hook.before_train(runner)  # weights were set by hand
    model.init_weights()
    runner.iter = 3  # resumed
    hook.before_train(runner)
    runner.iter, runner._load_from = 0, 'weights.pth'
    hook.before_train(runner)
    assert messages == []
    runner._load_from = None
    hook.before_train(runner)
    assert len(messages) == 1 and 'training starts from random weights' in messages[0]


def test_teacher_moves_once_per_real_step_under_accumulation():
    model = small_model()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 9)
    runner = runner_with(model, wrapper)
    hook = TeacherHook()
    for iteration in range(9):
        runner.iter = iteration
        wrapper.update_params(model(torch.ones(1, 2)).sum())
        hook.after_train_iter(runner, iteration)
    assert model.teacher.update.call_count == 3


def test_schedule_without_a_length_ends_at_the_last_iteration():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    open_end = CosineAnnealingLR(optimizer, eta_min=0.1, by_epoch=False)
    stated = CosineAnnealingLR(optimizer, eta_min=0.1, by_epoch=False, T_max=4, end=4)
    runner = SimpleNamespace(param_schedulers=[open_end, stated], max_iters=10)
    ScheduleLengthHook().before_train(runner)
    assert open_end.T_max == 10 and stated.T_max == 4
    runner.param_schedulers = [open_end]
    for _ in range(10):
        optimizer.step()
        open_end.step()
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.1)


def build(model, **kwargs):
    return build_optim_wrapper(
        model,
        dict(
            type='cotap_mm.MixedPrecisionOptimWrapper', optimizer=dict(type='SGD', lr=0.1), **kwargs
        ),
    )


def test_mixed_precision_on_a_cpu():
    model = torch.nn.Linear(2, 2)
    for dtype, wanted in (('auto', torch.float32), ('bfloat16', torch.bfloat16)):
        wrapper = build(model, dtype=dtype)
        assert isinstance(wrapper, MixedPrecisionOptimWrapper)
        with wrapper.optim_context(model):
            out = model(torch.ones(1, 2))
        assert out.dtype == wanted
        before = model.weight.detach().clone()
        wrapper.update_params(out.float().sum())
        assert not torch.equal(before, model.weight)
        wrapper.load_state_dict(wrapper.state_dict())
    with pytest.raises(ValueError, match='dtype must be one of'):
        build(model, dtype='int8')
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='float16 needs a GPU'):
            build(model, dtype='float16')


def test_other_optimizer_wrappers_stop_at_a_non_finite_loss():
    hook, runner = NonFiniteHook(), SimpleNamespace(iter=41, optim_wrapper=object())
    hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(1.0), accuracy=float('nan')))
    hook.after_train_iter(runner, 0)
    with pytest.raises(FloatingPointError, match='iteration 42: loss_a = nan, loss = inf. Resume'):
        hook.after_train_iter(
            runner,
            0,
            outputs=dict(
                loss_a=torch.tensor(float('nan')), loss_b=torch.tensor(2.0), loss=float('inf')
            ),
        )
    assert get_priority(NonFiniteHook.priority) < get_priority(TeacherHook.priority)


def test_compile_hook_reaches_blocks_and_heads_of_both_networks():
    model = build_tiny()
    CompileHook(backend='eager').before_train(SimpleNamespace(model=model))
    parts = [
        *model.backbone.layers,
        *model.teacher.backbone.layers,
        *model.head.values(),
        *model.teacher.head.values(),
    ]
    assert all(part._compiled_call_impl is not None for part in parts)
    assert CompileHook(backend='eager', dynamic=True).options['dynamic'] is True
    for wrong in (dict(backend='egaer'), dict(mode='fastest'), dict(modes='default')):
        with pytest.raises(ValueError, match='torch.compile refuses .*(egaer|fastest|modes)'):
            CompileHook(**wrong)


def test_monitors_warn_once_until_they_recover(monkeypatch):
    messages = []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.monitor_hook.print_log', lambda text, **_: messages.append(text)
    )
    hook = MonitorHook(limits=dict(teacher_distance=(0.0, 0.1)))
    healthy = dict(
        feature_std=0.8,
        prototypes_in_use=0.5,
        patch_mean_assignment_entropy=0.9,
        foreground_share=0.5,
        teacher_distance=0.05,
        other=99.0,
    )
    for value in (0.8, 0.2, 0.1, 0.7, 0.25):
        hook._warn(dict(healthy, feature_std=value), 7)
    assert len(messages) == 2
    assert messages[0].startswith(
        'iteration 7: monitor/feature_std is 0.2, outside of [0.3, 2]: feat'
    )
    assert 'lower the learning rate' in messages[0]
    hook._warn(dict(healthy, teacher_distance=0.2, foreground_share=float('nan')), 8)
    assert len(messages) == 4
    with pytest.raises(ValueError, match="limits must be for .*, got \\['nothing'\\]"):
        MonitorHook(limits=dict(nothing=(0, 1)))


def test_collapse_is_reported_in_training(tmp_path, monkeypatch):
    """The hook warns if all features are equal, and does not warn at a healthy start."""
    messages = []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.monitor_hook.print_log', lambda text, **_: messages.append(text)
    )
    model = build_tiny()
    runner = SimpleNamespace(model=model, iter=0, message_hub=mock.Mock())
    crops = torch.randint(0, 256, (4, 2, 2, 32, 32, 3), dtype=torch.uint8)
    hook, model.monitor_now = MonitorHook(limits=dict(prototypes_in_use=(0.0, 1.0))), True
    hook.after_train_iter(runner, 0, dict(patch=dict(global_crops=crops)), {})
    assert not messages
    torch.nn.init.zeros_(model.backbone.patch_embed.projection.weight)
    torch.nn.init.zeros_(model.backbone.pos_embed)
    hook.after_train_iter(
        runner,
        0,
        dict(patch=dict(global_crops=crops)),
        {'monitor/foreground_share': torch.tensor(1.0)},
    )
    assert [text.split(' is ')[0] for text in messages] == [
        'iteration 1: monitor/feature_std',
        'iteration 1: monitor/foreground_share',
    ]
