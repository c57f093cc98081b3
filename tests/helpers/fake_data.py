"""Write small random data sets to the folders that the configs expect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def _image(path: Path, rng, size=(64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def _labels(path: Path, rng, classes, size=(64, 48)) -> None:
    """Mask of squares with random classes; the last row is ignored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = rng.choice(classes, (size[1] // 8, size[0] // 8)).astype(np.uint8)
    labels = coarse.repeat(8, axis=0).repeat(8, axis=1)
    labels[-1] = 255
    Image.fromarray(labels).save(path)


def ade20k(root: Path, count=2) -> None:
    rng = np.random.RandomState(0)
    for split in ('training', 'validation'):
        for i in range(count):
            top = root / 'data/ade/ADEChallengeData2016'
            _image(top / f'images/{split}/{i}.jpg', rng)
            _labels(top / f'annotations/{split}/{i}.png', rng, range(151))


def voc(root: Path, count=2) -> None:
    """VOC 2012 for segmentation, VOC 2007 and 2012 for detection."""
    rng = np.random.RandomState(0)
    top = root / 'data/VOCdevkit'
    for year in ('VOC2007', 'VOC2012'):
        names = [f'{split}{i}' for split in ('train', 'aug', 'val') for i in range(count)]
        for name in names:
            _image(top / year / f'JPEGImages/{name}.jpg', rng)
            for folder in ('SegmentationClass', 'SegmentationClassAug'):
                _labels(top / year / f'{folder}/{name}.png', rng, range(21))
            path = top / year / f'Annotations/{name}.xml'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                '<annotation><size><width>64</width><height>48</height></size><object><name>dog'
                '</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>60'
                '</xmax><ymax>44</ymax></bndbox></object></annotation>'
            )
        for part, lists in (
            ('Segmentation', ('train', 'aug', 'val')),
            ('Main', ('trainval', 'test')),
        ):
            for split in lists:
                path = top / year / f'ImageSets/{part}/{split}.txt'
                path.parent.mkdir(parents=True, exist_ok=True)
                kept = [name for name in names if part == 'Main' or name.startswith(split)]
                path.write_text('\n'.join(kept) + '\n')


def cityscapes(root: Path, count=2) -> None:
    rng = np.random.RandomState(0)
    for split in ('train', 'val'):
        for i in range(count):
            top = root / 'data/cityscapes'
            _image(top / f'leftImg8bit/{split}/a/{i}_leftImg8bit.png', rng)
            _labels(top / f'gtFine/{split}/a/{i}_gtFine_labelTrainIds.png', rng, range(19))


def coco_stuff(root: Path, count=2) -> None:
    rng = np.random.RandomState(0)
    for split in ('train2017', 'val2017'):
        for i in range(count):
            top = root / 'data/coco_stuff164k'
            _image(top / f'images/{split}/{i}.jpg', rng)
            _labels(top / f'annotations/{split}/{i}_labelTrainIds.png', rng, range(171))


def write_coco(path: Path, images: Path, names: list, categories: list) -> None:
    """COCO annotations with one box and its mask per image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            dict(
                images=[
                    dict(id=i, file_name=name, width=64, height=48) for i, name in enumerate(names)
                ],
                annotations=[
                    dict(
                        id=i + 1,
                        image_id=i,
                        category_id=1,
                        iscrowd=0,
                        area=40.0 * 36,
                        bbox=[10, 6, 40, 36],
                        segmentation=[[10, 6, 50, 6, 50, 42, 10, 42]],
                    )
                    for i in range(len(names))
                ],
                categories=[dict(id=i + 1, name=name) for i, name in enumerate(categories)],
            )
        )
    )
    rng = np.random.RandomState(0)
    for name in names:
        _image(images / name, rng)


def coco(root: Path, count=4) -> None:
    from mmdet.datasets import CocoDataset

    top = root / 'data/coco'
    for split in ('train2017', 'val2017'):
        write_coco(
            top / f'annotations/instances_{split}.json',
            top / split,
            [f'{i}.jpg' for i in range(count)],
            CocoDataset.METAINFO['classes'],
        )


def imagenet(root: Path, count=2) -> None:
    from mmpretrain.datasets import ImageNet

    rng = np.random.RandomState(0)
    top = root / 'data/imagenet'
    lines = []
    for i in range(count):
        _image(top / f'train/n0144076{i}/{i}.JPEG', rng)
        _image(top / f'val/{i}.JPEG', rng)
        lines.append(f'{i}.JPEG {i}')
    assert len(ImageNet.METAINFO['classes']) == 1000
    (top / 'meta').mkdir()
    (top / 'meta/val.txt').write_text('\n'.join(lines) + '\n')
    (top / 'meta/train.txt').write_text(
        '\n'.join(f'n0144076{i}/{i}.JPEG {i}' for i in range(count)) + '\n'
    )


def segmentation_folder(top: Path, num_classes: int, count=4) -> None:
    """images/{train,val}/*.jpg and labels/{train,val}/*.png."""
    rng = np.random.RandomState(0)
    for split in ('train', 'val'):
        for i in range(count):
            _image(top / f'images/{split}/{i}.jpg', rng)
            _labels(top / f'labels/{split}/{i}.png', rng, range(num_classes))


def detection_folder(top: Path, category: str, count=4) -> None:
    """images/*.jpg, train.json and val.json."""
    for split in ('train', 'val'):
        write_coco(
            top / f'{split}.json',
            top / 'images',
            [f'{split}{i}.jpg' for i in range(count)],
            [category],
        )


def custom(root: Path) -> None:
    segmentation_folder(root / 'data/custom', 2)
    detection_folder(root / 'data/custom', 'object')


def camvid(root: Path) -> None:
    segmentation_folder(root / 'data/camvid', 11)


def raccoon(root: Path) -> None:
    detection_folder(root / 'data/raccoon', 'raccoon')


#: Prefix of a config's name -> function that writes its data.
WRITERS = {
    'ade20k': ade20k,
    'voc': voc,
    'cityscapes': cityscapes,
    'cocostuff': coco_stuff,
    'coco': coco,
    'imagenet': imagenet,
    'custom': custom,
    'camvid': camvid,
    'raccoon': raccoon,
}


def write_for(name: str, root: Path) -> None:
    """Write the data that a config needs, chosen by its name."""
    key = max((key for key in WRITERS if name.startswith(key)), key=len)
    WRITERS[key](root)
