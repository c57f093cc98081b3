"""COCO-Stuff with the 27 classes used for unsupervised segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from mmseg.datasets import COCOStuffDataset

from cotap_mm.registry import DATASETS

# Level-2 categories of COCO (things) and COCO-Stuff (stuff), each with its classes.
_THINGS = {
    'electronic': ('tv', 'laptop', 'mouse', 'remote', 'keyboard', 'cell phone'),
    'appliance': ('microwave', 'oven', 'toaster', 'sink', 'refrigerator'),
    'food': (
        'banana',
        'apple',
        'sandwich',
        'orange',
        'broccoli',
        'carrot',
        'hot dog',
        'pizza',
        'donut',
        'cake',
    ),
    'furniture': ('chair', 'couch', 'potted plant', 'bed', 'dining table', 'toilet'),
    'indoor': ('book', 'clock', 'vase', 'scissors', 'teddy bear', 'hair drier', 'toothbrush'),
    'kitchen': ('bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl'),
    'accessory': ('backpack', 'umbrella', 'handbag', 'tie', 'suitcase'),
    'animal': (
        'bird',
        'cat',
        'dog',
        'horse',
        'sheep',
        'cow',
        'elephant',
        'bear',
        'zebra',
        'giraffe',
    ),
    'outdoor': ('traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench'),
    'person': ('person',),
    'sports': (
        'frisbee',
        'skis',
        'snowboard',
        'sports ball',
        'kite',
        'baseball bat',
        'baseball glove',
        'skateboard',
        'surfboard',
        'tennis racket',
    ),
    'vehicle': ('bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat'),
}
_STUFF = {
    'ceiling': ('ceiling-other', 'ceiling-tile'),
    'floor': ('carpet', 'floor-marble', 'floor-other', 'floor-stone', 'floor-tile', 'floor-wood'),
    'food-stuff': ('food-other', 'fruit', 'salad', 'vegetable'),
    'furniture-stuff': (
        'cabinet',
        'counter',
        'cupboard',
        'desk-stuff',
        'door-stuff',
        'furniture-other',
        'light',
        'mirror-stuff',
        'shelf',
        'stairs',
        'table',
    ),
    'raw-material': ('cardboard', 'metal', 'paper', 'plastic'),
    'textile': (
        'banner',
        'blanket',
        'cloth',
        'clothes',
        'curtain',
        'mat',
        'napkin',
        'pillow',
        'rug',
        'textile-other',
        'towel',
    ),
    'wall': (
        'wall-brick',
        'wall-concrete',
        'wall-other',
        'wall-panel',
        'wall-stone',
        'wall-tile',
        'wall-wood',
    ),
    'window': ('window-blind', 'window-other'),
    'building': ('bridge', 'building-other', 'house', 'roof', 'skyscraper', 'tent'),
    'ground': (
        'dirt',
        'gravel',
        'ground-other',
        'mud',
        'pavement',
        'platform',
        'playingfield',
        'railroad',
        'road',
        'sand',
        'snow',
    ),
    'plant': (
        'branch',
        'bush',
        'flower',
        'grass',
        'leaves',
        'moss',
        'plant-other',
        'straw',
        'tree',
    ),
    'sky': ('clouds', 'sky-other'),
    'solid': ('hill', 'mountain', 'rock', 'solid-other', 'stone', 'wood'),
    'structural': ('cage', 'fence', 'net', 'railing', 'structural-other'),
    'water': ('fog', 'river', 'sea', 'water-other', 'waterdrops'),
}
_LEVEL2 = {**_THINGS, **_STUFF}


@DATASETS.register_module()
class COCOStuff27Dataset(COCOStuffDataset):
    """COCO-Stuff 164k with its 12 categories of things and 15 categories of stuff.

    Reads the same files as MMSegmentation's ``COCOStuffDataset``
    (``*_labelTrainIds.png``, 171 classes, 255 ignored) and merges the classes of a category.
    The curated subset that some papers evaluate on can be selected with ``ann_file``, a text
    file with one image name per line, without suffix.

    Source: COCO-Stuff, https://arxiv.org/abs/1612.03716 (hierarchy); IIC,
    https://arxiv.org/abs/1807.06653 (27 classes and curated lists).

    Args:
        **kwargs (dict): Arguments of ``COCOStuffDataset``, except ``metainfo``.

    Raises:
        ValueError: If ``metainfo`` selects classes.
    """

    METAINFO = dict(classes=tuple(_LEVEL2))

    def __init__(self, **kwargs) -> None:
        if (kwargs.get('metainfo') or {}).get('classes'):
            raise ValueError(
                'COCOStuff27Dataset always has its 27 classes; use mmseg.COCOStuffDataset '
                'to select some of the 171 classes'
            )
        super().__init__(**kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Optional[Sequence] = None) -> dict[int, int]:
        """Map indices of the 171 classes to indices of the 27 categories."""
        kinds = {name: index for index, names in enumerate(_LEVEL2.values()) for name in names}
        return {old: kinds[name] for old, name in enumerate(COCOStuffDataset.METAINFO['classes'])}
