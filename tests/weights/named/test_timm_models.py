"""Plain ViTs of timm by name give the same features here."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

import cotap_mm
from cotap_mm.encoders.timm_vit import TimmEncoder
from cotap_mm.weights import detect_checkpoint
from cotap_mm.weights.named import timm_models

SMALL = dict(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=0)


@pytest.fixture
def models(monkeypatch):
    """Let timm 'download' models with random weights: options by name."""
    offered = {}

    def list_models(pattern='*', pretrained=False):
        known = offered if pretrained else {name.split('.')[0] for name in offered}
        start = pattern.rstrip('*')
        return sorted(
            name for name in known if name == pattern or '*' in pattern and name.startswith(start)
        )

    def create_model(name, pretrained, num_classes, **options):
        config, more = offered[name]
        if isinstance(config, Exception):
            raise config
        torch.manual_seed(0)
        model = timm.models.vision_transformer.VisionTransformer(**{**SMALL, **more, **options})
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.2)
        model.pretrained_cfg = config
        return model.eval()

    monkeypatch.setattr(timm, 'list_models', list_models)
    monkeypatch.setattr(timm, 'create_model', create_model)
    return offered


@pytest.mark.parametrize(
    'config', [{}, dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0))], ids=['ImageNet', 'other']
)
@pytest.mark.parametrize('more', [{}, dict(init_values=0.1), dict(no_embed_class=True)])
def test_features_are_those_of_timm(models, config, more):
    models['vit_toy.mine'] = config, more
    pixels = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    by_timm = TimmEncoder(timm.create_model('vit_toy.mine', True, 0)).encode(pixels)
    weights = detect_checkpoint('timm:vit_toy.mine')
    assert weights.name == 'timm:vit_toy.mine'
    assert weights.architecture()['arch']['num_heads'] == 2
    ours = cotap_mm.load(weights).encode(pixels)
    torch.testing.assert_close(ours.patches, by_timm.patches, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.cls, by_timm.cls, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'more, problem',
    [
        (dict(act_layer='gelu_tanh'), 'its activation is GELUTanh'),
        (dict(act_layer=torch.nn.ReLU), r'its activation is ReLU\(\), not GELU'),
        (dict(class_token=False, global_pool='avg'), 'it has no CLS token'),
        (dict(norm_layer='layernorm', pre_norm=True), None),
        (dict(reg_tokens=4), None),
        (dict(qk_norm=True), None),
        (
            dict(scale_mlp_norm=True),
            '4 tensors affect its output and are not supported: blocks.0.mlp',
        ),
    ],
)
def test_other_networks_are_refused(models, more, problem):
    models['vit_toy.mine'] = {}, more
    if problem is None:
        assert detect_checkpoint('timm:vit_toy.mine').tensors
        return
    with pytest.raises(ValueError, match=f'not a plain ViT: {problem}'):
        detect_checkpoint('timm:vit_toy.mine')


def test_misspelled_and_unavailable(models):
    models.update(
        {
            'vit_small_patch16_224.dino': ({}, {}),
            'vit_small_patch16_224.augreg': ({}, {}),
            'resnet18.a1': ({}, {}),
            'vit_gone.x': (ConnectionError('no route to host\nmore'), {}),
        }
    )
    for typed, message in (
        ('vit_smal_patch16_224', 'has no model .*; similar names: vit_small_patch16_224'),
        ('vit_small_patch16_224.dinno', 'no pretrained weights .* has vit_small_patch16_224.dino'),
        (
            'vit_gone.x',
            r'cannot download the weights of .* vit_gone.x \(no route to host\)',
        ),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            detect_checkpoint(f'timm:{typed}')


def test_without_timm(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'timm', None)
    with pytest.raises(ValueError, match='timm:vit needs timm: pip install timm'):
        timm_models.create_timm('vit')


def test_names_of_the_real_timm():
    assert timm_models.create_timm('test_vit.r160_in1k', pretrained=False).num_classes == 0
    with pytest.raises(ValueError, match='similar names: vit_small_patch16_224'):
        timm_models.create_timm('vit_smal_patch16_224')
    with pytest.raises(ValueError, match='it has .*vit_small_patch16_224.dino'):
        timm_models.create_timm('vit_small_patch16_224.dinoo')
