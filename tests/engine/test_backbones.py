"""Find and initialize backbones in models of all libraries, at any nesting depth."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from cotap_mm.engine.backbones import find_backbones, set_backbones_init, wrapper_and_model
from cotap_mm.engine.launch.config import set_init


def vit(**options):
    return dict(type='cotap_mm.CoTAPViT', **options)


PLAIN = dict(type='EncoderDecoder', backbone=vit(), decode_head=dict(type='FCNHead'))
#: Model -> number of its trained backbones.
MODELS = {
    'plain': (PLAIN, 1),
    'test-time augmentation': (dict(type='SegTTAModel', module=PLAIN), 1),
    'detector, twice wrapped': (
        dict(
            type='DetTTAModel',
            module=dict(
                type='SoftTeacher', detector=PLAIN, semi_train_cfg=dict(freeze_teacher=True)
            ),
        ),
        1,
    ),
    'distiller of mmdet': (
        dict(
            PLAIN,
            type='KnowledgeDistillationSingleStageDetector',
            teacher_config=dict(model=dict(backbone=vit())),
        ),
        1,
    ),
    'distiller of mmrazor': (
        dict(
            type='SingleTeacherDistill',
            architecture=PLAIN,
            teacher=dict(type='EncoderDecoder', backbone=vit()),
        ),
        1,
    ),
    'student': (dict(type='Distill', student=PLAIN, teacher=PLAIN), 1),
    'model in a model': (dict(type='Wrapper', model=dict(type='Inner', model=PLAIN)), 1),
    'two detectors': (dict(type='Ensemble', detectors=[PLAIN, PLAIN]), 2),
    'low rank': (
        dict(
            type='ImageClassifier',
            backbone=dict(type='mmpretrain.LoRAModel', module=vit(), targets=[dict(type='qkv')]),
        ),
        1,
    ),
    'none': (dict(type='HuggingFaceClassifier', model_name='x'), 0),
}


@pytest.mark.parametrize('name', MODELS)
def test_backbones_are_found_and_get_weights(name):
    model, count = MODELS[name]
    config = Config(dict(model=model))
    found = find_backbones(config.model)
    assert [each.type for each in found] == ['cotap_mm.CoTAPViT'] * count
    assert set_backbones_init(config.model, dict(type='X', checkpoint='y')) == count
    assert all(each.init_cfg.checkpoint == 'y' for each in find_backbones(config.model))
    for teacher in (
        config.model.get('teacher'),
        config.model.get('teacher_config', {}).get('model'),
    ):
        assert teacher is None or 'init_cfg' not in teacher.backbone


def test_init_of_a_wrapped_model():
    config = Config(dict(default_scope='mmdet', model=MODELS['detector, twice wrapped'][0]))
    set_init(config, 'iter_1.pth')
    assert config.model.module.detector.backbone.init_cfg == dict(
        type='cotap_mm.PretrainedViT', checkpoint='iter_1.pth', trust=False
    )
    with pytest.raises(ValueError, match='HuggingFaceClassifier has no backbone'):
        set_init(Config(dict(default_scope='mmpretrain', model=MODELS['none'][0])), 'iter_1.pth')


def test_tta_wrapper():
    assert wrapper_and_model(MODELS['test-time augmentation'][0]) == ('SegTTAModel', PLAIN)
    assert wrapper_and_model(PLAIN) == ('', PLAIN)
