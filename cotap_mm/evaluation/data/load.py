"""Load evaluation data by name from the folders listed here.

========================  ==================================================================
name                      folders below the root
========================  ==================================================================
``camvid``, ``folder``    ``images/{train,val}/**.jpg`` (or png) and ``labels/{train,val}`` with a
                          PNG of the same name; values are classes, 255 is ignored
``voc``                   VOCdevkit/VOC2012: ``JPEGImages``, ``SegmentationClass``,
                          ``ImageSets/Segmentation/{train,val}.txt``
``vocaug``                as ``voc``, but ``SegmentationClassAug`` and ``trainaug.txt`` for train
``ade20k``                ADEChallengeData2016: ``images/{training,validation}``,
                          ``annotations/{training,validation}``
``cocostuff27``           ``images/{train2017,val2017}`` and ``annotations/{train2017,val2017}``
``cocostuff171``          with ``*_labelTrainIds.png``, as MMSegmentation prepares them
``cityscapes``            ``leftImg8bit/{train,val}`` and ``gtFine/{train,val}`` with
                          ``*_labelTrainIds.png``
``toy``, ``toy-classes``  no folders: toy scenes, and toy images of one object
``classes``               ``{train,val}/CLASS/**``, as in ImageNet
``davis``                 DAVIS-2017: ``JPEGImages/480p``, ``Annotations/480p``, ``ImageSets/2017``
``camvid-video``          the folders of ``camvid``, with its drives as clips
``clip``                  ``frames/*`` and ``masks/*`` of one clip; the first frame needs a mask
========================  ==================================================================

The name can also be the path of a downstream config of MMSegmentation, such as
``configs/downstream/ade20k_linear.py``; its train and val data sets are then used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

from cotap_mm.datasets import ToyScenes
from cotap_mm.datasets.sources.joined import share_range
from cotap_mm.datasets.sources.value_range import Option

from .classification import ClassFolder, ToyObjects
from .evaluation_data import EvaluationData
from .mmseg_data import config_data, public_data
from .segmentation import ImageMaskFolder, LabeledScenes
from .subset import Subset
from .video import VideoClips

# configs/downstream/_base_/camvid.py lists them, too: a config cannot import from a package, and
# this list must work without MMSegmentation. A test compares both.
CAMVID = (
    'sky',
    'building',
    'pole',
    'road',
    'pavement',
    'tree',
    'sign',
    'fence',
    'car',
    'pedestrian',
    'bicyclist',
)


def load_data(
    name: str,
    root: Optional[Union[str, Path]] = None,
    classes: Optional[Sequence[str]] = None,
    limit: Optional[int] = None,
    value_range: Option = 'auto',
) -> EvaluationData:
    """Load train and validation data by name.

    Args:
        name (str): A name in the table above, or a config file of MMSegmentation.
        root (str | Path, optional): Folder of the data. Defaults to the folder below ``data``
            in which OpenMMLab's configs expect it.
        classes (sequence, optional): Class names, for the name ``folder``.
        limit (int, optional): Keep at most this many evenly spaced images of train and of val.
        value_range: How values of more than 8 bits are scaled to 0..255, see
            :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``: one range, computed
            from the images of train and val together.

    Returns:
        EvaluationData: The data sets and their classes.

    Raises:
        FileNotFoundError: If folders or files are missing.
        ValueError: If the name is unknown, ``folder`` is used without class names, or
            ``value_range`` has the wrong form.
    """
    if name.endswith('.py'):
        data = config_data(name)
    elif name in _LOADERS:
        where, load = _LOADERS[name]
        folder = Path(root or where)
        if where and not folder.is_dir():
            raise FileNotFoundError(
                f'{name} is expected in {folder}, which does not exist; pass '
                'its folder as root (--root DIR)'
            )
        data = load(name, folder, classes)
    else:
        raise ValueError(
            f'data must be one of {", ".join(_LOADERS)}, or a config file of '
            f'MMSegmentation, got {name!r}'
        )
    share_range((data.train, data.val), value_range)
    if limit is not None:
        data = data._replace(
            val=Subset(data.val, limit), train=data.train and Subset(data.train, limit)
        )
    return data


def _folder(name: str, root: Path, classes: Optional[Sequence[str]]) -> EvaluationData:
    if name == 'camvid':
        classes = CAMVID
    if not classes:
        raise ValueError("data 'folder' needs class names: --classes NAME NAME ...")
    parts = [
        ImageMaskFolder(root / 'images' / part, root / 'labels' / part)
        if (root / 'images' / part).is_dir()
        else None
        for part in ('train', 'val')
    ]
    if parts[1] is None:
        raise FileNotFoundError(
            f'{root / "images" / "val"} does not exist; expected images/val '
            'and labels/val, and images/train and labels/train to learn from'
        )
    candidates = range(2, 11) if name == 'camvid' else range(1, len(classes))
    background = {'road', 'pavement', 'tree', 'fence'} if name == 'camvid' else set()
    return EvaluationData(
        name,
        'segmentation',
        tuple(classes),
        parts[1],
        parts[0],
        tuple(i for i in candidates if classes[i] not in background),
    )


def _toy(name: str, root: Path, classes: Optional[Sequence[str]]) -> EvaluationData:
    names = ToyScenes.CLASSES
    if name == 'toy':
        train, val = (LabeledScenes(ToyScenes(split, 200)) for split in ('memory', 'test'))
        return EvaluationData(name, 'segmentation', names, val, train, tuple(range(3, len(names))))
    train, val = (ToyObjects(ToyScenes(split, 400, scene='single')) for split in ('memory', 'test'))
    return EvaluationData(name, 'classification', names[3:], val, train)


def _class_folders(name: str, root: Path, classes: Optional[Sequence[str]]) -> EvaluationData:
    train, val = ClassFolder(root / 'train'), ClassFolder(root / 'val')
    if train.classes != val.classes:
        raise ValueError(
            f'{root}/train and {root}/val must have the same classes, got '
            f'{len(train.classes)} and {len(val.classes)}'
        )
    return EvaluationData(name, 'classification', train.classes, val, train)


def _videos(name: str, root: Path, classes: Optional[Sequence[str]]) -> EvaluationData:
    clips = {
        'davis': VideoClips.davis,
        'camvid-video': VideoClips.camvid,
        'clip': VideoClips.folder,
    }[name](root)
    return EvaluationData(name, 'video', CAMVID if name == 'camvid-video' else (), clips)


def _public(name: str, root: Path, classes: Optional[Sequence[str]]) -> EvaluationData:
    return public_data(name, root)


# Name -> default root ('' for none) and loader.
_LOADERS: dict[str, Any] = {
    'camvid': ('data/camvid', _folder),
    'folder': ('data', _folder),
    'voc': ('data/VOCdevkit/VOC2012', _public),
    'vocaug': ('data/VOCdevkit/VOC2012', _public),
    'ade20k': ('data/ade/ADEChallengeData2016', _public),
    'cocostuff27': ('data/coco_stuff164k', _public),
    'cocostuff171': ('data/coco_stuff164k', _public),
    'cityscapes': ('data/cityscapes', _public),
    'toy': ('', _toy),
    'toy-classes': ('', _toy),
    'classes': ('data/imagenet', _class_folders),
    'davis': ('data/DAVIS', _videos),
    'camvid-video': ('data/camvid', _videos),
    'clip': ('data/clip', _videos),
}
