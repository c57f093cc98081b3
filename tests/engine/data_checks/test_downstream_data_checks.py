"""Checks of downstream data before training; each error is one sentence."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from cotap_mm.engine.data_checks.downstream import check_data, heads_of, prepare_downstream
from cotap_mm.engine.data_checks.findings import iter_sampled
from tests.helpers.fake_data import detection_folder, imagenet, segmentation_folder, voc

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


def seg_config(root, num_classes=3, classes=('a', 'b', 'c'), **options):
    def loader(part):
        return dict(
            dataset=dict(
                type='BaseSegDataset',
                data_root=str(root),
                metainfo=dict(classes=classes),
                data_prefix=dict(img_path=f'images/{part}', seg_map_path=f'labels/{part}'),
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
                **options,
            )
        )

    return Config(
        dict(
            default_scope='mmseg',
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            model=dict(
                type='EncoderDecoder', decode_head=dict(type='FCNHead', num_classes=num_classes)
            ),
        )
    )


def det_config(root, num_classes=1, classes=('raccoon',), with_mask=True, **options):
    def loader(part):
        return dict(
            dataset=dict(
                type='CocoDataset',
                data_root=str(root),
                ann_file=f'{part}.json',
                metainfo=dict(classes=classes),
                data_prefix=dict(img='images/'),
                pipeline=[dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask)],
                **options,
            )
        )

    return Config(
        dict(
            default_scope='mmdet',
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            model=dict(
                type='MaskRCNN',
                rpn_head=dict(type='RPNHead', num_classes=1),
                roi_head=dict(type='X', bbox_head=dict(type='Y', num_classes=num_classes)),
            ),
        )
    )


@pytest.fixture
def seg(tmp_path):
    segmentation_folder(tmp_path, 3)
    return tmp_path


@pytest.fixture
def det(tmp_path):
    detection_folder(tmp_path, 'raccoon')
    return tmp_path


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


def change_json(root, change, parts=('train', 'val')):
    for part in parts:
        content = json.loads((root / f'{part}.json').read_text())
        change(content)
        (root / f'{part}.json').write_text(json.dumps(content))


def without(key):
    return lambda content: [each.pop(key) for each in content['annotations']]


def every_box(**values):
    return lambda content: [each.update(values) for each in content['annotations']]


#: Change of the jsons -> expected part of the error.
BAD_JSONS = {
    'no annotations': (
        lambda content: content.update(annotations=[]),
        'no box to learn or score: none of its 0 annotations',
    ),
    'other ids': (every_box(category_id=7), 'none of its 4 annotations is a box of a class'),
    'other images': (every_box(image_id=99), '4 boxes do not belong to images'),
    'flat boxes': (every_box(bbox=[1, 1, 0, 5]), 'all 4 boxes are ignored, or smaller'),
    'crowds': (every_box(iscrowd=1), 'all 4 boxes are ignored'),
    'no area': (without('area'), 'area is missing in'),
    'no masks': (without('segmentation'), '4 of 4 annotations .* have no segmentation'),
    'no images': (lambda content: content.update(images=[]), 'lists no images'),
    'no list': (lambda content: content.update(images=None), "has no list 'images'"),
    'other files': (
        lambda content: [each.update(file_name='x.jpg') for each in content['images']],
        '4 of 4 images do not exist, the first is .*images/x.jpg',
    ),
}


@pytest.mark.parametrize('kind', BAD_JSONS)
def test_bad_jsons(det, kind):
    change, message = BAD_JSONS[kind]
    config = det_config(det, filter_cfg=dict(filter_empty_gt=False))
    assert check_data(config) == ([], [])
    change_json(det, change)
    with pytest.raises(ValueError, match=message):
        prepare_downstream(config)


def test_classes_of_the_config_and_of_the_json(det):
    errors, _ = check_data(det_config(det, classes=('dog', 'cat')))
    assert 'none of the classes of the config (dog, cat) is a category of' in errors[0]
    assert '(raccoon)' in errors[0] and len(errors) == 2
    _, warnings = check_data(det_config(det, 2, classes=('raccoon', 'cat')))
    assert '1 of 2 classes of the config (cat) are not categories' in warnings[0]
    assert 'write ("NAME", )' in check_data(det_config(det, classes='raccoon'))[0][0]
    change_json(
        det, lambda content: content['categories'].append(dict(id=2, name='cat')), parts=['val']
    )
    errors, _ = check_data(det_config(det, 2, classes=('raccoon', 'cat')))
    assert 'number the classes differently: raccoon and raccoon, cat' in errors[0]
    errors, _ = check_data(det_config(det, 1, classes=('raccoon', 'cat')))
    assert any(
        'bbox_head.num_classes=1, but val data (CocoDataset) has boxes of 2' in each
        for each in errors
    )


def test_broken_json_missing_file_and_metric(det):
    config = det_config(det)
    config.val_evaluator = dict(type='CocoMetric', ann_file=str(det / 'nowhere.json'))
    (det / 'train.json').write_text('{"images": [')
    (det / 'val.json').unlink()
    errors, _ = check_data(config)
    assert 'val_evaluator.ann_file' in errors[0] and 'nowhere.json does not exist' in errors[0]
    assert 'train.json is not a COCO json: JSONDecodeError' in errors[1]
    assert 'val.json does not exist (ann_file' in errors[2]


def test_unlabeled_images_need_no_boxes(det):
    config = det_config(det)
    unlabeled = dict(
        config.train_dataloader.dataset,
        ann_file='rest.json',
        pipeline=[dict(type='LoadEmptyAnnotations')],
    )
    content = json.loads((det / 'train.json').read_text())
    (det / 'rest.json').write_text(json.dumps(dict(images=content['images'])))
    config.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[config.train_dataloader.dataset, unlabeled]
    )
    assert check_data(config) == ([], [])


def test_voc_boxes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    voc(tmp_path)
    top = tmp_path / 'data/VOCdevkit'
    config = Config(
        dict(
            default_scope='mmdet',
            model=dict(type='X'),
            train_dataloader=dict(
                dataset=dict(
                    type='VOCDataset',
                    data_root=str(top),
                    pipeline=[dict(type='LoadAnnotations')],
                    ann_file='VOC2007/ImageSets/Main/trainval.txt',
                    data_prefix=dict(sub_data_root='VOC2007/'),
                )
            ),
        )
    )
    assert check_data(config) == ([], [])
    config.train_dataloader.dataset.metainfo = dict(classes=('cat',))
    assert (
        'have no box of the classes of the config (cat); the classes in the files are dog'
        in check_data(config)[0][0]
    )


def cls_config(root, num_classes, **dataset):
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier', head=dict(type='LinearClsHead', num_classes=num_classes)
            ),
            train_dataloader=dict(
                dataset=dict(type='CustomDataset', data_root=str(root), pipeline=[], **dataset)
            ),
        )
    )


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
