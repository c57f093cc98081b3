"""Parameter groups of the whole algorithm, and their schedules."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine import ScheduleLengthHook
from tests.helpers.tiny import build_tiny

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
