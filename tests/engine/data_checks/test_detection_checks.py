"""Checks of boxes before training; each error is one sentence."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config

from cotap_mm.engine.data_checks.downstream import check_data, prepare_downstream
from tests.helpers.data_check_configs import det_config
from tests.helpers.fake_data import voc

pytest.importorskip('mmdet')


def change_json(root, change, parts=('train', 'val')):
    for part in parts:
        content = json.loads((root / f'{part}.json').read_text())
        change(content)
        (root / f'{part}.json').write_text(json.dumps(content))


def without(key):
    return lambda content: [box.pop(key) for box in content['annotations']]


def every_box(**values):
    return lambda content: [box.update(values) for box in content['annotations']]


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
        lambda content: [image.update(file_name='x.jpg') for image in content['images']],
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
        'bbox_head.num_classes=1, but val data (CocoDataset) has boxes of 2' in error
        for error in errors
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
