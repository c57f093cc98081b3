"""Checks of masks before training; each error is one sentence."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from cotap_mm.engine.data_checks.downstream import check_data, prepare_downstream
from cotap_mm.engine.data_checks.findings import iter_sampled
from tests.helpers.data_check_configs import seg_config
from tests.helpers.fake_data import segmentation_folder

pytest.importorskip('mmseg')


def mask(root, values, name='train/2'):
    Image.fromarray(np.asarray(values)).save(root / f'labels/{name}.png')


def full(value, dtype=np.uint8):
    return np.full((48, 64), value, dtype=dtype)


def for_all(root, change):
    for file in root.glob('labels/*/*.png'):
        change(file)


#: Change -> expected part of the error.
BAD_MASKS = {
    'too large': (
        lambda root: mask(root, full(3)),
        'train/2.png has the values 3, but labels '
        r'must be 0..2 or 255 \(ignored\), since model.decode_head.num_classes=3; the '
        r'data set has 3 classes \(a, b, c\)',
    ),
    '16 bits': (lambda root: mask(root, full(300, np.uint16)), 'train/2.png has the values 300'),
    'RGB': (
        lambda root: mask(root, np.zeros((48, 64, 3), np.uint8)),
        'train/2.png must have one channel',
    ),
    'empty': (
        lambda root: (root / 'labels/val/1.png').write_bytes(b''),
        'val data .*1.png is empty',
    ),
    'missing': (
        lambda root: (root / 'labels/train/3.png').unlink(),
        '1 of 4 masks do not exist, the first is .*train/3.png',
    ),
    'rotated': (
        lambda root: mask(root, full(1).T),
        'train/2.png is 48 x 64 pixels and its image 64 x 48',
    ),
    'ignored': (
        lambda root: for_all(root, lambda file: Image.new('L', (64, 48), 255).save(file)),
        'every pixel of 4 masks is 255, which is ignored',
    ),
    'image': (
        lambda root: (root / 'images/train/1.jpg').write_text('no'),
        'image .*train/1.jpg cannot be read',
    ),
    'fifo': (
        lambda root: [
            (root / 'labels/train/0.png').unlink(),
            os.mkfifo(root / 'labels/train/0.png'),
        ],
        '0.png must be a regular file',
    ),
}


@pytest.mark.parametrize('kind', BAD_MASKS)
def test_bad_masks(seg, kind):
    change, message = BAD_MASKS[kind]
    assert check_data(seg_config(seg)) == ([], [])
    change(seg)
    with pytest.raises(ValueError, match=message):
        prepare_downstream(seg_config(seg))


def test_more_masks_than_the_sample(tmp_path, monkeypatch):
    """All masks of a small data set are opened, and evenly spaced ones of a large data set."""
    segmentation_folder(tmp_path, 3, count=80)
    mask(tmp_path, full(9), 'train/1')
    assert 'train/1.png has the values 9' in check_data(seg_config(tmp_path))[0][0]
    monkeypatch.setattr('cotap_mm.engine.data_checks.findings.SECONDS', 0)
    assert len(list(iter_sampled(range(1000)))) == 64
    assert list(iter_sampled(range(1000)))[:3] == [0, 15, 31]
    assert sorted(iter_sampled(range(50))) == list(range(50))


def test_warns_of_masks_with_values_0_and_255(seg):
    for_all(
        seg,
        lambda file: Image.fromarray(
            np.where(np.asarray(Image.open(file)) == 1, 255, 0).astype(np.uint8)
        ).save(file),
    )
    errors, warnings = check_data(seg_config(seg))
    assert (
        errors == []
        and 'contain only class 0 (a) and pixels of 255, which is ignored. If masks '
        'have values 0 and 255, convert them to 0 and 1'
        in warnings[0]
    )


def test_suffixes_and_folders(seg):
    assert 'no image: no file in' in check_data(seg_config(seg, img_suffix='.tif'))[0][0]
    assert "seg_map_suffix is '.bmp'" in check_data(seg_config(seg, seg_map_suffix='.bmp'))[0][0]
    errors, _ = check_data(seg_config(seg / 'nowhere'))
    assert 'nowhere/images/train: No such file or directory' in errors[0]


def test_zero_labels_labels_of_custom_steps_and_heads(seg):
    assert check_data(seg_config(seg, 2, reduce_zero_label=True, classes=('b', 'c'))) == ([], [])
    config = seg_config(seg, 2)
    assert (
        'num_classes=2, but train data (BaseSegDataset) has 3 classes' in check_data(config)[1][0]
    )
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.dataset.pipeline[1].type = 'LoadMyDepth'  # its files are not masks
    assert check_data(config)[0] == []


def wrap(config, **wrapper):
    config.train_dataloader.dataset = dict(dataset=config.train_dataloader.dataset, **wrapper)
    return config


@pytest.mark.parametrize(
    'wrapper', [dict(type='RepeatDataset', times=2), dict(type='MultiImageMixDataset', pipeline=[])]
)
def test_wrapped_data(seg, wrapper):
    config = wrap(seg_config(seg), **wrapper)
    assert check_data(config) == ([], [])
    mask(seg, full(9))
    assert 'train/2.png has the values 9' in check_data(config)[0][0]
