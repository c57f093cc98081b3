"""Checks of downstream data that concern every library."""

from __future__ import annotations

import pytest
from mmengine.registry import DefaultScope

from cotap_mm.engine.data_checks.downstream import check_data, heads_of, prepare_downstream
from tests.helpers.data_check_configs import seg_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


def test_heads():
    model = dict(
        type='TTA',
        module=dict(
            type='HTC',
            rpn_head=dict(type='RPNHead', num_classes=1),
            roi_head=dict(
                type='R',
                bbox_head=[dict(type='B', num_classes=4)] * 2,
                mask_head=dict(type='M', num_classes=1, class_agnostic=True),
                semantic_head=dict(type='S', num_classes=183),
            ),
            teacher=dict(head=dict(type='H', num_classes=9)),
        ),
    )
    assert [tuple(head) for head in heads_of(model)] == [
        ('model.module.roi_head.bbox_head.0', 4),
        ('model.module.roi_head.bbox_head.1', 4),
    ]
    assert (
        list(
            heads_of(
                dict(
                    type='GLIP',
                    language_model=dict(type='Bert'),
                    bbox_head=dict(type='ATSSVLFusionHead', num_classes=80),
                )
            )
        )
        == []
    )


def test_tta_model_cannot_be_trained(seg):
    config = seg_config(seg)
    config.model = dict(type='SegTTAModel', module=config.model)
    with pytest.raises(
        ValueError, match='SegTTAModel is for test-time augmentation and cannot be trained'
    ):
        prepare_downstream(config)


@pytest.mark.slow
def test_real_data(shared_data, monkeypatch):
    """Shipped configs on real images have no errors and no warnings."""
    monkeypatch.setenv('CAMVID', str(shared_data / 'data/camvid'))
    monkeypatch.setenv('RACCOON', str(shared_data / 'data/raccoon'))
    from cotap_mm.command_line.config_file import load_config

    monkeypatch.setattr('cotap_mm.engine.data_checks.findings.SECONDS', 0)
    try:
        for name in ('camvid_linear', 'raccoon_mask-rcnn'):
            assert check_data(load_config(name)) == ([], [])
    finally:
        DefaultScope._instance_dict.clear()  # set when a config is read
