"""Checks of class folders and image lists before training; each error is one sentence."""

from __future__ import annotations

import pytest

from cotap_mm.engine.data_checks.downstream import check_data
from tests.helpers.data_check_configs import cls_config
from tests.helpers.fake_data import imagenet

pytest.importorskip('mmpretrain')


def test_classification(tmp_path):
    imagenet(tmp_path)
    top = tmp_path / 'data/imagenet'
    folders = cls_config(top, 2, data_prefix='train')
    listed = cls_config(top, 2, data_prefix='val', ann_file='meta/val.txt')
    assert check_data(folders) == check_data(listed) == ([], [])
    assert (
        'has 2 class folders, but model.head.num_classes=1; set it to 2'
        in check_data(cls_config(top, 1, data_prefix='train'))[0][0]
    )
    assert (
        'has labels up to 1, but'
        in check_data(cls_config(top, 1, data_prefix='val', ann_file='meta/val.txt'))[0][0]
    )
    config = cls_config(top, 3, data_prefix='train', metainfo=dict(classes=list('abc')))
    assert 'there are 3 class names' in check_data(config)[0][0]
    assert 'nowhere does not exist' in check_data(cls_config(top, 2, data_prefix='nowhere'))[0][0]
    (top / 'train/empty').mkdir()
    assert 'train/empty has no image' in check_data(cls_config(top, 3, data_prefix='train'))[0][0]
    (top / 'meta/val.txt').write_text('0.JPEG cat\n')
    assert 'line 1 of' in check_data(listed)[0][0] and '"NAME LABEL"' in check_data(listed)[0][0]
