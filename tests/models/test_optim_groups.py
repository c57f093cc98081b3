"""Parameter groups of the whole algorithm."""

from __future__ import annotations

import pytest
from mmengine.optim import build_optim_wrapper

from tests.helpers.tiny import build_tiny

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


def test_unknown_paramwise_key():
    with pytest.raises(ValueError, match='head_lr_mult'):
        build_optim_wrapper(build_tiny(), dict(CONFIG, paramwise_cfg=dict(decay_rate=0.9)))
