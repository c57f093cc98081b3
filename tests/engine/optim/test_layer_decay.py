"""Layer-wise learning rates of every parameter of a segmentor, a detector and a classifier."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from cotap_mm.models import CoTAPViT

BACKBONE = dict(
    type='cotap_mm.CoTAPViT',
    img_size=32,
    patch_size=8,
    num_prototypes=2,
    arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
)


def build(scope):
    if scope == 'mmseg':
        from mmseg.registry import MODELS

        model = dict(
            type='EncoderDecoder',
            backbone=BACKBONE,
            decode_head=dict(
                type='FCNHead',
                in_channels=32,
                channels=8,
                num_classes=3,
                num_convs=1,
                norm_cfg=dict(type='BN'),
            ),
        )
    elif scope == 'mmdet':
        from mmdet.registry import MODELS

        model = dict(
            type='RetinaNet',
            backbone=BACKBONE,
            neck=dict(type='cotap_mm.SimpleFeaturePyramid', in_channels=32, out_channels=8),
            bbox_head=dict(
                type='RetinaHead',
                num_classes=2,
                in_channels=8,
                stacked_convs=1,
                feat_channels=8,
                anchor_generator=dict(
                    type='AnchorGenerator', ratios=[1.0], scales=[4.0], strides=[4, 8, 16, 32, 64]
                ),
            ),
        )
    else:
        from mmpretrain.registry import MODELS

        model = dict(
            type='ImageClassifier',
            backbone=dict(BACKBONE, out_type='cls_token'),
            head=dict(type='LinearClsHead', in_channels=32, num_classes=3),
        )
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)


def groups_of(model, scope, **paramwise):
    with DefaultScope.overwrite_default_scope(scope):
        wrapper = build_optim_wrapper(
            model,
            dict(
                type='OptimWrapper',
                optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
                constructor='cotap_mm.LayerDecayOptimWrapperConstructor',
                paramwise_cfg=paramwise,
            ),
        )
    return {group['param_name']: group for group in wrapper.optimizer.param_groups}


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmpretrain'])
def test_each_parameter_has_its_rate(scope):
    model = build(scope)
    groups = groups_of(model, scope, layer_decay_rate=0.5, norm_decay_mult=0.0, bias_decay_mult=0.0)
    learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert set(groups) == set(learning)
    for name, group in groups.items():
        assert group['params'][0] is learning[name]
        if name.startswith('backbone.layers.'):
            wanted = 0.5 ** (3 - int(name.split('.')[2]))
        elif name.startswith('backbone.neck.'):
            wanted = 0.5  # same as the last block
        elif name.startswith('backbone.'):
            wanted = 0.5**4  # embeddings
        else:
            wanted = 1.0  # heads, and the detector's pyramid
        assert group['lr'] == wanted, name
        is_norm_or_bias = learning[name].ndim == 1
        assert group['weight_decay'] == (0.0 if is_norm_or_bias else 0.1), name


def test_frozen_parameters_are_skipped():
    model = build('mmseg')
    model.backbone.frozen_stages = 3
    model.train()
    groups = groups_of(model, 'mmseg', layer_decay_rate=0.5)
    assert groups and all(name.startswith('decode_head.') for name in groups)


def test_wrong_use():
    model = build('mmseg')
    with pytest.raises(ValueError, match='accepts layer_decay_rate, .* got decay_rate'):
        groups_of(model, 'mmseg', decay_rate=0.5)
    with pytest.raises(ValueError, match=r'must be a number in \(0, 1\], got 1.5'):
        groups_of(model, 'mmseg', layer_decay_rate=1.5)
    with pytest.raises(TypeError, match='backbone with get_layer_depth.* got Conv2d'):
        model.backbone = nn.Conv2d(3, 3, 1)
        groups_of(model, 'mmseg')


def test_a_step_moves_the_filter():
    """The groups reach the optimizer: with rate 1 all trainable parameters change in one step."""
    torch.manual_seed(0)
    model = CoTAPViT(**{key: value for key, value in BACKBONE.items() if key != 'type'})
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.0),
            constructor='cotap_mm.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=1.0),
        ),
    )
    before = model.neck.prototypes.clone()
    wrapper.update_params(model(torch.randn(1, 3, 32, 32))[0].pow(3).sum())
    assert not torch.equal(before, model.neck.prototypes)
