"""Loaded files of each source give the outputs of the original network."""

from __future__ import annotations

import argparse

import pytest
import torch

from cotap_mm.models import DINOViT
from cotap_mm.weights import SOURCES, load_pretrained
from tests.helpers.foreign_weights import (
    PATCH,
    hf5_names,
    hf_names,
    last_tokens,
    small_vit,
    timm_forward,
    timm_names,
    under,
)

STUDENT, TEACHER = timm_names(seed=1), timm_names(seed=2)
DINO_HEAD = {'head.mlp.0.weight': torch.zeros(2, 2), 'head.last_layer.weight_g': torch.ones(3, 1)}


def dino_file(student='module.backbone.', teacher='backbone.'):
    return dict(
        student={**under(student, STUDENT), **under('module.', DINO_HEAD)},
        teacher={**under(teacher, TEACHER), **DINO_HEAD},
        optimizer=dict(state={}),
        epoch=3,
        args=argparse.Namespace(arch='vit_small'),
    )


# name -> content of the file, valid source, weights that should be loaded.
FILES = {
    'dino backbone': (STUDENT, 'dino', STUDENT),
    'dino full': (dino_file(), 'dino', TEACHER),
    'ibot teacher': (
        dict(state_dict={**TEACHER, 'masked_embed': torch.zeros(1, 16)}),
        'ibot',
        TEACHER,
    ),
    'ibot full': (dino_file('module.backbone.', 'module.backbone.'), 'ibot', TEACHER),
    'mugs': (
        dict(
            state_dict={
                **under('module.backbone.', TEACHER),
                'module.backbone.relation_blocks.0.norm1.weight': torch.ones(16),
            }
        ),
        'mugs',
        TEACHER,
    ),
    'leopart': (
        dict(
            state_dict={
                **under('model.', STUDENT),
                **under('teacher.', TEACHER),
                'model.projection_head.0.weight': torch.zeros(2, 2),
                'model.prototypes.weight': torch.zeros(2, 2),
            },
            epoch=1,
        ),
        'leopart',
        STUDENT,
    ),
    'timm': (
        {
            **STUDENT,
            'head.weight': torch.zeros(5, 16),
            'head.bias': torch.zeros(5),
            'fc_norm.weight': torch.zeros(16),
        },
        'timm',
        STUDENT,
    ),
    'deit': (dict(model=STUDENT), 'timm', STUDENT),
    'hf classifier': (
        {**hf_names(STUDENT), 'classifier.weight': torch.zeros(5, 16)},
        'hf',
        STUDENT,
    ),
    'hf backbone': (
        {**hf_names(STUDENT, ''), 'pooler.dense.weight': torch.zeros(16, 16)},
        'hf',
        STUDENT,
    ),
    'hf in memory': (hf5_names(STUDENT), 'hf', STUDENT),
}


@pytest.mark.parametrize('name', FILES)
def test_outputs_equal_the_source_network(name):
    content, source, wanted = FILES[name]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for model, stated in ((small_vit(final_norm=True), 'auto'), (small_vit(DINOViT), source)):
        final_norm = not isinstance(model, DINOViT)
        report = load_pretrained(model, content, source=stated)
        difference = last_tokens(model, images) - timm_forward(wanted, images, final_norm)
        assert difference.abs().max() < 1e-5
        assert not report.missing and not report.unexpected, str(report)
        assert report.num_loaded == len(model.state_dict())


@pytest.mark.parametrize('network, wanted', [('student', STUDENT), ('teacher', TEACHER)])
def test_network_option(network, wanted):
    model = small_vit(DINOViT)
    for content in (
        dino_file(),
        dict(state_dict={**under('student.', STUDENT), **under('teacher.', TEACHER)}),
    ):
        report = load_pretrained(model, content, network=network)
        assert report.network == network
        assert torch.equal(model.cls_token, wanted['cls_token'])


def test_mmpretrain_names_with_and_without_prefix():
    origin = small_vit(final_norm=True)
    for content in (
        origin.state_dict(),
        dict(
            state_dict={
                **under('backbone.', origin.state_dict()),
                'head.fc.weight': torch.zeros(5, 16),
            },
            meta={},
        ),
    ):
        model = small_vit(final_norm=True)
        load_pretrained(model, content, source='mmpretrain')
        assert all(
            torch.equal(value, origin.state_dict()[name])
            for name, value in model.state_dict().items()
        )


def test_layer_scale_is_loaded_into_a_model_that_has_it():
    gammas = {f'blocks.{i}.ls{k}.gamma': torch.rand(16) for i in range(2) for k in (1, 2)}
    model = small_vit(layer_scale_init_value=1.0)
    load_pretrained(model, {**STUDENT, **gammas})
    assert torch.equal(model.layers[1].attn.gamma1.weight, gammas['blocks.1.ls1.gamma'])
    assert torch.equal(model.layers[0].ffn.gamma2.weight, gammas['blocks.0.ls2.gamma'])
    with pytest.raises(ValueError, match='no parameter for 4 tensors'):
        load_pretrained(small_vit(), {**STUDENT, **gammas})


def test_report_is_one_line():
    report = load_pretrained(small_vit(DINOViT), dino_file())
    assert report.source == 'timm' and report.network == 'teacher'
    assert 'norm.weight' not in report.loaded and 'backbone.ln1.weight' in report.dropped
    assert 'head.mlp.0.weight' in report.dropped
    text = str(report)
    assert '\n' not in text and f'loaded {report.num_loaded} tensors' in text
    assert load_pretrained(small_vit(DINOViT), STUDENT, source='dino').source == 'dino'


def test_unknown_tensors_are_reported():
    report = load_pretrained(small_vit(DINOViT), {**STUDENT, 'step_size': torch.zeros(1)})
    assert report.unexpected == ['step_size']
    assert 'unexpected: 1 (step_size)' in str(report)


@pytest.mark.parametrize(
    'extra',
    [
        'dist_token',
        'blocks.0.attn.rel_pos',
        'blocks.1.mlp.norm.weight',
        'embeddings.other_tokens',
    ],
)
def test_what_is_not_a_plain_vit_is_rejected(extra):
    with pytest.raises(ValueError, match='not a plain ViT.*' + extra):
        load_pretrained(small_vit(DINOViT), {**STUDENT, extra: torch.zeros(1)})


@pytest.mark.parametrize(
    'extra, remedy',
    [
        ({'register_tokens': torch.zeros(1, 4, 16)}, 'num_registers=4'),
        ({'storage_tokens': torch.zeros(1, 2, 16)}, 'num_registers=2'),
        ({'embeddings.register_tokens': torch.zeros(1, 3, 16)}, 'num_registers=3'),
        (
            {f'blocks.{i}.attn.{x}_norm.weight': torch.ones(8) for i in range(2) for x in 'qk'},
            'qk_norm=True',
        ),
    ],
)
def test_parts_that_the_model_lacks_are_named(extra, remedy):
    with pytest.raises(ValueError, match=f'Build the backbone with {remedy}, as in the file'):
        load_pretrained(small_vit(DINOViT), {**STUDENT, **extra})


def test_wrong_shapes_of_registers_and_periods():
    for extra, message in (
        ({'register_tokens': torch.zeros(1)}, 'registers must have shape'),
        ({'register_tokens': torch.zeros(1, 17, 16)}, '1 to 16'),
        ({'rope_embed.periods': torch.zeros(2)}, 'periods .* must be positive'),
    ):
        with pytest.raises(ValueError, match=message):
            load_pretrained(small_vit(DINOViT), {**STUDENT, **extra})


def test_incomplete_query_key_value_is_rejected():
    stored = hf_names(STUDENT)
    del stored['vit.encoder.layer.1.attention.attention.key.bias']
    with pytest.raises(ValueError, match=r'layer\.1\.attn\.qkv\.bias.*lacks its key'):
        load_pretrained(small_vit(DINOViT), stored)


def test_wrong_options_are_explained():
    model = small_vit(DINOViT)
    with pytest.raises(
        ValueError, match='source must be.*' + '.*'.join(f"'{name}'" for name in sorted(SOURCES))
    ):
        load_pretrained(model, STUDENT, source='moco')
    with pytest.raises(ValueError, match="network must be 'student' or 'teacher'"):
        load_pretrained(model, STUDENT, network='ema')
    with pytest.raises(ValueError, match="names of 'timm', not of source='hf'"):
        load_pretrained(model, STUDENT, source='hf')
    with pytest.raises(ValueError, match='has no student, only a teacher'):
        load_pretrained(model, dict(teacher=TEACHER), network='student')
    with pytest.raises(ValueError, match='holds 2 ViTs; choose one of them: FILE::a, FILE::b'):
        load_pretrained(model, {**under('a.', STUDENT), **under('b.', TEACHER)})
    with pytest.raises(ValueError, match='no ViT found.*conv1.weight'):
        load_pretrained(model, {'conv1.weight': torch.zeros(8, 3, PATCH, PATCH)})
