"""Which checkpoints a network starts from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cotap_mm.engine.resume.fit import check_start
from tests.helpers.tiny import build_tiny


def renamed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def test_most_of_the_backbone_must_fit():
    model = build_tiny()
    state = model.state_dict()
    check_start(model, dict(state_dict=renamed('module.', state)), 'a.pth')
    state['backbone.pos_embed'] = torch.zeros(1, 65, 16)  # resized
    check_start(model, state, 'a.pth')
    student = {name: value for name, value in state.items() if 'teacher' not in name}
    with pytest.raises(ValueError, match=r'of teacher.backbone are missing, the first is teacher'):
        check_start(model, dict(state_dict=student), 'a.pth')


def test_low_rank_updates_may_be_missing():
    lora = dict(type='LoRAViT', lora=dict(rank=2))
    check_start(build_tiny(**lora), build_tiny().state_dict(), 'a.pth')


def test_networks_of_other_libraries_may_rename_weights():
    model = nn.ModuleDict(dict(backbone=nn.Linear(2, 2)))
    check_start(model, renamed('vit.', model.state_dict()), 'a.pth')
    with pytest.raises(ValueError, match=r'2 of 2 .*weight has shape \(3, 3\) in it, but \(2, 2\)'):
        check_start(model, renamed('backbone.', nn.Linear(3, 3).state_dict()), 'a.pth')
