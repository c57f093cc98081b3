"""Weights named in init_cfg are still there after init_weights()."""

from __future__ import annotations

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule

from cotap_mm.models.backbones.dino_vit import DINOViT, VisionTransformer
from cotap_mm.registry import MODELS, WEIGHT_INITIALIZERS
from cotap_mm.weights import PretrainedViT, rename_released
from tests.helpers.foreign_weights import DEPTH, small_vit, timm_names
from tests.helpers.tiny import build_tiny

NAMES = ['PretrainedViT', 'cotap_mm.PretrainedViT']


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(timm_names(), tmp_path / 'vit.pth')
    return str(tmp_path / 'vit.pth')


def is_loaded(backbone):
    state = backbone.state_dict()
    wanted = {
        rename_released(name, DEPTH)[len('backbone.') :]: value
        for name, value in timm_names().items()
    }
    return all(torch.equal(value, wanted[name]) for name, value in state.items())


@pytest.mark.parametrize(
    'kind, name', [(DINOViT, NAMES[0]), (DINOViT, NAMES[1]), (VisionTransformer, NAMES[1])]
)
def test_weights_survive_in_a_vit(kind, name, checkpoint):
    model = small_vit(kind, init_cfg=dict(type=name, checkpoint=checkpoint, source='dino'))
    assert not is_loaded(model)
    model.init_weights()
    assert is_loaded(model)


@pytest.mark.parametrize('name', NAMES)
def test_weights_survive_in_cotap(name, checkpoint):
    model = build_tiny()
    model.init_cfg = dict(type=name, checkpoint=checkpoint)
    model.init_weights()
    assert is_loaded(model.backbone) and is_loaded(model.teacher.backbone)


@pytest.mark.parametrize('kind', ['DINOViT', 'mmpretrain.VisionTransformer'])
def test_weights_survive_in_a_larger_model(kind, checkpoint):
    class Segmentor(BaseModule):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = MODELS.build(backbone)
            self.head = torch.nn.Linear(2, 2)

    extra = {} if kind == 'DINOViT' else dict(final_norm=False)
    model = Segmentor(
        dict(
            type=kind,
            img_size=32,
            patch_size=8,
            arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
            init_cfg=dict(type='cotap_mm.PretrainedViT', checkpoint=checkpoint),
            **extra,
        )
    )
    model.init_weights()
    assert is_loaded(model.backbone)


def test_other_initializers_in_the_list_run_first(checkpoint):
    model = small_vit(
        DINOViT,
        init_cfg=[
            dict(type='Constant', layer='Linear', val=7.0),
            dict(type='PretrainedViT', checkpoint=checkpoint),
        ],
    )
    model.init_weights()
    assert is_loaded(model)


def test_registered_and_logged(checkpoint):
    assert WEIGHT_INITIALIZERS.get('PretrainedViT') is PretrainedViT
    logger = MMLogger.get_instance('pretrained_vit_test', log_level='INFO')
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    PretrainedViT(checkpoint).load(small_vit(DINOViT))
    PretrainedViT(timm_names()).load(small_vit(DINOViT))
    logger.removeHandler(handler)
    heard = [text for text in heard if 'names of' in text]
    assert heard[0].startswith(checkpoint + ': ') and 'loaded 28 tensors' in heard[0]
    assert heard[1].startswith('state dict: ')


def test_weights_that_do_not_fit_stop_initialization(checkpoint):
    model = small_vit(
        DINOViT, qkv_bias=False, init_cfg=dict(type='PretrainedViT', checkpoint=checkpoint)
    )
    with pytest.raises(ValueError, match='does not fit'):
        model.init_weights()
    assert model.init_cfg['type'] == 'PretrainedViT'
