"""Configs of small downstream runs whose data are checked."""

from __future__ import annotations

from mmengine.config import Config


def _config(scope, model, make_dataset):
    """Config that trains and validates on ``make_dataset(part)`` for 'train' and 'val'."""
    return Config(
        dict(
            default_scope=scope,
            train_dataloader=dict(dataset=make_dataset('train')),
            val_dataloader=dict(dataset=make_dataset('val')),
            model=model,
        )
    )


def seg_config(root, num_classes=3, classes=('a', 'b', 'c'), **options):
    """Segmentation with images/{train,val} and labels/{train,val} below ``root``."""
    model = dict(type='EncoderDecoder', decode_head=dict(type='FCNHead', num_classes=num_classes))
    return _config(
        'mmseg',
        model,
        lambda part: dict(
            type='BaseSegDataset',
            data_root=str(root),
            metainfo=dict(classes=classes),
            data_prefix=dict(img_path=f'images/{part}', seg_map_path=f'labels/{part}'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
            **options,
        ),
    )


def det_config(root, num_classes=1, classes=('raccoon',), with_mask=True, **options):
    """Detection with images, train.json and val.json below ``root``."""
    model = dict(
        type='MaskRCNN',
        rpn_head=dict(type='RPNHead', num_classes=1),
        roi_head=dict(type='X', bbox_head=dict(type='Y', num_classes=num_classes)),
    )
    return _config(
        'mmdet',
        model,
        lambda part: dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file=f'{part}.json',
            metainfo=dict(classes=classes),
            data_prefix=dict(img='images/'),
            pipeline=[dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask)],
            **options,
        ),
    )


def cls_config(root, num_classes, **dataset):
    """Classification that only trains."""
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
