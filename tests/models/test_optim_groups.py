"""Parameter groups of the whole algorithm, and their schedules."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine import ScheduleLengthHook
from tests.helpers.tiny import build_tiny, make_inputs

ROOT = Path(__file__).resolve().parents[2]
CONFIG = dict(
    type='OptimWrapper',
    constructor='cotap_mm.CoTAPOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=3e-5, weight_decay=0.024),
)


def test_every_parameter_is_in_the_right_group():
    model = build_tiny()
    optimizer = build_optim_wrapper(model, CONFIG).optimizer
    settings = {
        id(p): (g['lr'], g['weight_decay']) for g in optimizer.param_groups for p in g['params']
    }
    assert len(optimizer.param_groups) == 4
    for name, param in model.named_parameters():
        if name.startswith('teacher.'):
            assert id(param) not in settings
            continue
        decays = (
            name in ('backbone.cls_token', 'backbone.pos_embed', 'neck.prototypes')
            or (name.endswith('.weight') and 'norm' not in name and '.ln' not in name)
            or name.endswith('.centers')
        )
        lr = 3e-4 if name.startswith('head.') else 3e-5
        assert settings[id(param)] == (pytest.approx(lr), 0.024 if decays else 0), name


def test_shipped_schedules_are_the_cosines_of_the_paper():
    """Learning rate to 3e-6, weight decay 0.024 to 0.24 and always 0 for biases and norms."""
    config = load_config(str(ROOT / 'configs' / 'cotap' / 'vits_coco.py'))
    model, steps = build_tiny(), 8
    with DefaultScope.overwrite_default_scope('cotap_mm'):
        optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
        schedules = [
            PARAM_SCHEDULERS.build(schedule, default_args=dict(optimizer=optimizer))
            for schedule in config.param_scheduler
        ]
    hook = ScheduleLengthHook()
    hook.before_train(SimpleNamespace(param_schedulers=schedules, max_iters=steps))
    names = {id(param): name for name, param in model.named_parameters()}
    for step in range(steps + 1):
        left = (1 + math.cos(math.pi * step / steps)) / 2  # 1 at the start, 0 at the end
        for group in optimizer.param_groups:
            is_head = names[id(group['params'][0])].startswith('head.')
            lr = 3e-6 + left * ((3e-4 if is_head else 3e-5) - 3e-6)
            assert group['lr'] == pytest.approx(lr)
            decays = not names[id(group['params'][0])].endswith('.bias')
            assert group['weight_decay'] == (
                pytest.approx(0.24 + left * (0.024 - 0.24)) if decays else 0
            )
        optimizer.step()
        for schedule in schedules:
            schedule.step()


def test_unknown_paramwise_key():
    with pytest.raises(ValueError, match='head_lr_mult'):
        build_optim_wrapper(build_tiny(), dict(CONFIG, paramwise_cfg=dict(decay_rate=0.9)))


def guarded(model, wrapper='cotap_mm.MixedPrecisionOptimWrapper', lr=0.01, **options):
    config = dict(CONFIG, type=wrapper, paramwise_cfg=options, optimizer=dict(type='AdamW', lr=lr))
    return build_optim_wrapper(model, config)


def updated(model, wrapper, seed=0):
    """Make a step; return which parameters changed, and by how much."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    losses = model.loss(make_inputs(seed=seed))
    wrapper.update_params(sum(value for name, value in losses.items() if 'loss' in name))
    return {
        name: (value - before[name]).abs().max().item()
        for name, value in model.named_parameters()
        if not value.equal(before[name])
    }


def test_backbone_is_frozen_for_the_first_iterations():
    model = build_tiny().train()
    wrapper = guarded(model, freeze_backbone_iters=2)
    wrapper.initialize_count_status(model, 0, 4)
    for step in range(4):
        changed = updated(model, wrapper, step)
        assert {name.split('.')[0] for name in changed} >= {'neck', 'head'}
        assert any(name.startswith('backbone.') for name in changed) == (step >= 2)
        state = wrapper.optimizer.state
        assert all((p in state) == (step >= 2) for p in model.backbone.parameters())
    steps = {int(state[p]['step']) for p in model.backbone.parameters()}
    assert steps == {2}  # Adam's averages start with the first update
    wrapper.initialize_count_status(model, 1, 4)  # resumed after the first iteration
    assert not any(name.startswith('backbone.') for name in updated(model, wrapper))


def test_frozen_gradient_that_is_not_finite_stops_no_step():
    model = build_tiny().train()
    wrapper = guarded(model, freeze_backbone_iters=1)
    wrapper.initialize_count_status(model, 0, 4)
    loss = sum(value for name, value in model.loss(make_inputs()).items() if 'loss' in name)
    model.backbone.cls_token.register_hook(lambda grad: grad * float('nan'))
    wrapper.update_params(loss)
    assert not wrapper.step_skipped


def test_rates_decay_with_depth_at_every_point_of_the_schedule():
    model, plain = (build_tiny().train() for _ in range(2))
    plain.load_state_dict(model.state_dict())
    decayed, usual = guarded(model, layer_decay_rate=0.5), guarded(plain)
    for wrapper in (decayed, usual):
        for group in wrapper.optimizer.param_groups:
            group['lr'] *= 0.1  # as a schedule does
            group['weight_decay'] = 0.0
    rates = [group['lr'] for group in decayed.optimizer.param_groups]
    torch.manual_seed(0)
    got = updated(model, decayed)
    torch.manual_seed(0)
    wanted = updated(plain, usual)
    # The first update of Adam is the learning rate where the gradient is not tiny.
    for name, depth in (
        ('cls_token', 0),
        ('layers.0.attn.proj.weight', 1),
        ('layers.1.ffn.layers.1.weight', 2),
    ):
        ratio = got[f'backbone.{name}'] / wanted[f'backbone.{name}']
        assert ratio == pytest.approx(0.5 ** (3 - depth), rel=0.01), name
    for name in ('head.patch.centers', 'neck.prototypes'):
        assert got[name] == pytest.approx(wanted[name], rel=0.01)
    assert [group['lr'] for group in decayed.optimizer.param_groups] == rates


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(layer_decay_rate=0), r'layer_decay_rate must be a number in \(0, 1\], got 0'),
        (dict(freeze_backbone_iters=1.5), 'freeze_backbone_iters must be an integer >= 0, got 1.5'),
        (
            dict(freeze_backbone_iters=1, wrapper='OptimWrapper'),
            "need optim_wrapper.type='MixedPrecisionOptimWrapper', got OptimWrapper",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        guarded(build_tiny(), **options)
