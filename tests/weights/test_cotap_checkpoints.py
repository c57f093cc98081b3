"""Released and our own CoTAP checkpoints: student, teacher, filter and heads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cotap_mm.models.backbones.dino_vit import DINOViT
from cotap_mm.weights import load_pretrained, rename_released
from tests.helpers.foreign_weights import small_vit, under
from tests.helpers.golden_replay import tiny_cotap
from tests.helpers.golden_tools import load_vectors
from tests.helpers.tiny import build_tiny

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get('COTAP_GOLDEN_DIR', ROOT / 'tests' / 'data' / 'golden'))
PARTS = ('backbone.', 'neck.', 'head.')


def released_params():
    z = load_vectors(GOLDEN / 'vit.npz')
    return {name[len('param.') :]: value for name, value in z.items() if name.startswith('param.')}


def build_released(params):
    side = (
        int((params['pos_embed'].shape[1] - 1) ** 0.5) * params['patch_embed.proj.weight'].shape[2]
    )
    heads = 3 if len(params['cls_token'][0, 0]) % 3 == 0 else 1
    return tiny_cotap(params, heads, side)


def network(model, teacher=False):
    start = 'teacher.' if teacher else ''
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if name.startswith(tuple(start + part for part in PARTS))
    }


@pytest.fixture
def trained():
    """A CoTAP whose teacher differs from its student."""
    torch.manual_seed(0)
    model = build_tiny()
    with torch.no_grad():
        for param in model.parameters():
            param.normal_()
    return model


WRAPPINGS = {
    'plain': lambda p: p,
    'lightning model': lambda p: dict(state_dict=under('model.', p), epoch=1),
    'lightning student': lambda p: dict(
        state_dict={**under('student.', p), **under('teacher.', {k: v + 1 for k, v in p.items()})}
    ),
    'lightning deep': lambda p: dict(
        state_dict={
            **under('model.teacher.', {k: v + 1 for k, v in p.items() if 'weight_g' not in k}),
            **under('model.student.', p),
        }
    ),
    'distributed': lambda p: dict(model=under('module.', p)),
}


@pytest.mark.slow
@pytest.mark.parametrize('wrapping', WRAPPINGS)
def test_released_names_fill_every_parameter(wrapping):
    params = released_params()
    model = build_released(params)
    report = load_pretrained(model, WRAPPINGS[wrapping](params))
    assert report.source == 'cotap' and report.teacher == 'student'
    assert not report.missing and not report.unexpected, str(report)
    depth = len(model.backbone.layers)
    for name, value in params.items():
        ours = rename_released(name, depth)
        if ours:
            assert torch.equal(model.state_dict()[ours], value), name
            assert torch.equal(model.state_dict()['teacher.' + ours], value), name
    unused = {
        name for name in params if '.norm_' in name and not name.startswith(f'blocks.{depth - 1}.')
    }
    gains = {name for name in params if name.endswith('weight_g')}
    assert unused | gains <= set(report.dropped)


def test_released_file_into_a_bare_vit():
    params = released_params()
    model = build_released(params).backbone
    report = load_pretrained(model, params, source='cotap')
    assert torch.equal(
        model.layers[-1].ln1.weight, params[f'blocks.{len(model.layers) - 1}.norm1.weight']
    )
    assert not report.missing and 'neck.prototypes' in report.dropped
    assert report.teacher == ''


def test_gain_other_than_one_is_rejected():
    params = released_params()
    params['projection_heads.1.last_layer.weight_g'] = (
        1.5 * params['projection_heads.1.last_layer.weight_g']
    )
    with pytest.raises(ValueError, match='heads.1.last_layer.weight_g must be all 1.*1.5.*cosines'):
        load_pretrained(build_released(released_params()), params)


def test_part_of_a_filter_is_rejected():
    params = released_params()
    for name in [name for name in params if 'norm_out_patch' in name]:
        del params[name]
    with pytest.raises(ValueError, match='only a part of neck; it lacks neck.norm_patch.weight'):
        load_pretrained(build_released(released_params()), params)


def test_own_checkpoint_restores_student_and_teacher(trained, tmp_path):
    path = tmp_path / 'iter_1.pth'
    torch.save(dict(state_dict=trained.state_dict(), meta=dict(iter=1)), path)
    model = build_tiny()
    report = load_pretrained(model, path)
    assert (report.source, report.network, report.teacher) == ('cotap_mm', '', 'file')
    for teacher in (False, True):
        wanted = network(trained, teacher)
        assert all(
            torch.equal(value, wanted[name]) for name, value in network(model, teacher).items()
        )
    assert any(name.startswith('patch_queue.') for name in report.dropped)
    assert not report.missing and not report.unexpected


def test_teacher_of_an_own_checkpoint_as_the_student(trained):
    model = build_tiny()
    report = load_pretrained(model, trained.state_dict(), network='teacher', source='cotap_mm')
    assert report.network == 'teacher'
    wanted = {name[len('teacher.') :]: value for name, value in network(trained, True).items()}
    assert all(torch.equal(value, wanted[name]) for name, value in network(model).items())


@pytest.mark.parametrize('name', [None, 'teacher'])
def test_own_checkpoint_into_a_vit(trained, name):
    vit = build_tiny().backbone
    report = load_pretrained(vit, trained.state_dict(), network=name)
    origin = trained.teacher.backbone if name else trained.backbone
    assert all(
        torch.equal(value, origin.state_dict()[name]) for name, value in vit.state_dict().items()
    )
    assert not report.missing and not report.unexpected


class FilteredViT(DINOViT):
    """A ViT with the filter as its neck, as used downstream."""

    def __init__(self, neck, **kwargs):
        super().__init__(**kwargs)
        self.neck = neck


def build_filtered():
    tiny = build_tiny()
    return FilteredViT(
        tiny.neck,
        img_size=32,
        patch_size=8,
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    )


def test_own_checkpoint_into_a_vit_with_filter_and_back(trained):
    vit = build_filtered()
    report = load_pretrained(vit, trained.state_dict())
    assert torch.equal(vit.neck.prototypes, trained.neck.prototypes)
    assert not report.missing and any(name.startswith('head.') for name in report.dropped)
    inside_a_segmentor = dict(state_dict=under('backbone.', vit.state_dict()))
    for content in (vit.state_dict(), inside_a_segmentor):
        again = build_filtered()
        report = load_pretrained(again, content)
        assert report.source == 'cotap_mm' and not report.missing and not report.unexpected
        assert torch.equal(again.neck.prototypes, trained.neck.prototypes)
        assert torch.equal(again.cls_token, trained.backbone.cls_token)


def test_plain_vit_into_cotap_keeps_filter_and_heads(trained):
    kept = {name: value for name, value in network(trained).items() if 'backbone' not in name}
    report = load_pretrained(trained, small_vit(DINOViT).state_dict())
    assert set(report.missing) == set(kept) and report.teacher == 'student'
    state = trained.state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert all(
        torch.equal(state['teacher.' + name], value) for name, value in network(trained).items()
    )


def test_other_head_size_is_rejected_without_changes(trained):
    state = trained.state_dict()
    state['head.patch.centers'] = torch.zeros(9, 8)
    model = build_tiny()
    kept = network(model)
    with pytest.raises(ValueError, match=r'head.patch.centers is \(9, 8\).*Build head.patch'):
        load_pretrained(model, state)
    assert all(torch.equal(value, kept[name]) for name, value in network(model).items())


def test_teacher_that_does_not_fit_is_rejected(trained):
    state = trained.state_dict()
    state['teacher.neck.prototypes'] = torch.zeros(5, 16, 3, 3)
    model = build_tiny()
    kept = network(model)
    with pytest.raises(ValueError, match='teacher.*neck.prototypes is'):
        load_pretrained(model, state)
    assert all(torch.equal(value, kept[name]) for name, value in network(model).items())
