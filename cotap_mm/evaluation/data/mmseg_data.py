"""Train and validation data from MMSegmentation's data set classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cotap_mm.command_line.config_file import load_config

from .evaluation_data import EvaluationData
from .mmseg_images import mmseg_images


def _voc(part: str, labels: str) -> dict:
    return dict(
        ann_file=f'ImageSets/Segmentation/{part}.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path=labels),
    )


def _prefix(images: str, labels: str) -> dict:
    return dict(data_prefix=dict(img_path=images, seg_map_path=labels))


_COCO = [_prefix(f'images/{part}', f'annotations/{part}') for part in ('train2017', 'val2017')]
# Name -> class of MMSegmentation, its train and val options, object classes (default: all but 0).
_MMSEG = {
    'voc': (
        'PascalVOCDataset',
        [_voc('train', 'SegmentationClass'), _voc('val', 'SegmentationClass')],
        (),
    ),
    'vocaug': (
        'PascalVOCDataset',
        [_voc('trainaug', 'SegmentationClassAug'), _voc('val', 'SegmentationClass')],
        (),
    ),
    'ade20k': (
        'ADE20KDataset',
        [
            _prefix('images/training', 'annotations/training'),
            _prefix('images/validation', 'annotations/validation'),
        ],
        (),
    ),
    'cocostuff27': ('cotap_mm.COCOStuff27Dataset', _COCO, range(12)),
    'cocostuff171': ('COCOStuffDataset', _COCO, range(80)),
    'cityscapes': (
        'CityscapesDataset',
        [_prefix('leftImg8bit/train', 'gtFine/train'), _prefix('leftImg8bit/val', 'gtFine/val')],
        range(11, 19),
    ),
}


def public_data(name: str, root: Path) -> EvaluationData:
    """Open a public data set with MMSegmentation's class for it.

    Args:
        name (str): One of ``'voc'``, ``'vocaug'``, ``'ade20k'``, ``'cocostuff27'``,
            ``'cocostuff171'`` and ``'cityscapes'``.
        root (Path): Folder of the data.

    Returns:
        EvaluationData: Train and validation images.
    """
    kind, options, object_classes = _MMSEG[name]
    train, val = (dict(type=kind, data_root=str(root), **part) for part in options)
    return _open_pair(name, train, val, object_classes)


def _open_pair(
    name: str, train: dict, val: dict, object_classes: Sequence[int] = ()
) -> EvaluationData:
    train_set, val_set = (mmseg_images(name, part) for part in (train, val))
    if train_set.classes != val_set.classes:
        raise ValueError(
            f'train and val of {name} must have the same classes, got '
            f'{train_set.classes} and {val_set.classes}'
        )
    classes = val_set.classes
    foreground = tuple(object_classes or range(1, len(classes)))
    return EvaluationData(name, 'segmentation', classes, val_set, train_set, foreground)


def config_data(path: str) -> EvaluationData:
    """Open the train and val data sets of a config of MMSegmentation.

    Args:
        path (str): The config file.

    Returns:
        EvaluationData: Train and validation images.

    Raises:
        ValueError: If it is not a config of MMSegmentation with two dataloaders.
    """
    config = load_config(path)
    try:
        train, val = config.train_dataloader.dataset, config.val_dataloader.dataset
    except AttributeError as error:
        raise ValueError(
            f'{path} has no train_dataloader and val_dataloader; pass a config of MMSegmentation'
        ) from error
    if (
        'segmentation' not in str(config.get('model', {}).get('data_preprocessor')).lower()
        and config.get('default_scope') != 'mmseg'
    ):
        raise ValueError(
            f'{path} is a config of {config.get("default_scope")}, not of MMSegmentation'
        )
    return _open_pair(Path(path).stem, dict(train), dict(val))
