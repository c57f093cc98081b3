"""Data sets of the evaluations by name, with the folders that they are expected in.

========================  ==================================================================
name                      folders below the root
========================  ==================================================================
``camvid``, ``folder``    ``images/{train,val}/**.jpg`` (or png) and ``labels/{train,val}`` with a
                          PNG of the same name; values are classes, 255 is ignored
``voc``                   VOCdevkit/VOC2012: ``JPEGImages``, ``SegmentationClass``,
                          ``ImageSets/Segmentation/{train,val}.txt``
``vocaug``                the same, training on ``SegmentationClassAug`` and ``trainaug.txt``
``ade20k``                ADEChallengeData2016: ``images/{training,validation}``,
                          ``annotations/{training,validation}``
``cocostuff27``           ``images/{train2017,val2017}`` and ``annotations/{train2017,val2017}``
``cocostuff171``          with ``*_labelTrainIds.png``, as MMSegmentation prepares them
``cityscapes``            ``leftImg8bit/{train,val}`` and ``gtFine/{train,val}`` with
                          ``*_labelTrainIds.png``
``toy``, ``toy-classes``  nothing: toy scenes, and toy images of one object with its class
``classes``               ``{train,val}/CLASS/**``, as for ImageNet
``davis``                 DAVIS-2017: ``JPEGImages/480p``, ``Annotations/480p``, ``ImageSets/2017``
``camvid-video``          as ``camvid``, its drives as clips
``clip``                  ``frames/*`` and ``masks/*`` of one clip, the first frame's at least
========================  ==================================================================

Or a downstream config of MMSegmentation, such as ``configs/downstream/ade20k_linear.py``:
its train and val data sets are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import torch
from torchvision.datasets import ImageFolder

from cotap_mm.command_line.config_file import load_config
from cotap_mm.datasets import ToyScenes
from cotap_mm.datasets.sources.files import ImageFiles
from cotap_mm.datasets.sources.joined import share_range
from cotap_mm.datasets.sources.value_range import Option
from cotap_mm.encoders.images import resize_image, to_pixels
from cotap_mm.registry import DATASETS

from .mmseg_images import mmseg_images
from .segmentation import ImageMaskFolder, LabeledScenes
from .video import VideoClips

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


class EvaluationData(NamedTuple):
    """What a protocol measures on.

    Attributes:
        name (str): For tables.
        kind (str): ``'segmentation'``, ``'classification'`` or ``'video'``.
        classes (tuple): Names of the classes; empty for videos of objects.
        val: Data set that is scored.
        train: Data set that is learnt from, if there is one.
        foreground (tuple): Classes that are objects, for the foreground protocol.
    """

    name: str
    kind: str
    classes: Sequence[str]
    val: Any
    train: Any = None
    foreground: Sequence[int] = ()


@DATASETS.register_module()
class ClassFolder:
    """Images in one folder a class, as ImageNet: short side resized, centre crop.

    Args:
        root (str | Path): Folder of class folders.
        crop (int): Side of the crop in pixels; the short side becomes crop * 256 / 224.
            Defaults to 224.
        value_range: See :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``.

    Raises:
        FileNotFoundError: If there is no folder with images.
    """

    def __init__(
        self, root: Union[str, Path], crop: int = 224, value_range: Option = 'auto'
    ) -> None:
        if not Path(root).is_dir():
            raise FileNotFoundError(
                f'{root} does not exist; it should hold a folder for each class'
            )
        found = ImageFolder(str(root))  # raises FileNotFoundError for an empty class
        self.classes, self.samples, self.crop = tuple(found.classes), found.samples, crop
        self.images = ImageFiles([path for path, _ in found.samples], value_range)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image (uint8, (3, crop, crop)) and label (int)."""
        label = self.samples[index][1]
        image = to_pixels(self.images.read(index))
        height, width = image.shape[1:]
        short = round(self.crop * 256 / 224)
        scale = short / min(height, width)
        image = resize_image(
            image, (max(short, round(height * scale)), max(short, round(width * scale)))
        )
        top, left = ((side - self.crop) // 2 for side in image.shape[1:])
        return dict(image=image[:, top : top + self.crop, left : left + self.crop], label=label)


class Subset:
    """``limit`` items of a data set, evenly spread."""

    def __init__(self, dataset: Any, limit: int) -> None:
        if limit < 1:
            raise ValueError(f'limit must be positive, got {limit}')
        count = len(dataset)
        kept = min(limit, count)
        self.dataset, self.indices = dataset, [i * count // kept for i in range(kept)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        """Item of the whole data set."""
        return self.dataset[self.indices[index]]

    def label_file(self, index: int) -> str:
        """As that of the whole data set, '' if it has none."""
        find = getattr(self.dataset, 'label_file', None)
        return find(self.indices[index]) if find else ''


def load_data(
    name: str,
    root: Optional[Union[str, Path]] = None,
    classes: Optional[Sequence[str]] = None,
    limit: Optional[int] = None,
    value_range: Option = 'auto',
) -> EvaluationData:
    """Find a data set by name.

    Args:
        name (str): See the table above, or a config file of MMSegmentation.
        root (str | Path, optional): Folder of the data. Defaults to where OpenMMLab's
            configs expect it, below ``data``.
        classes (sequence, optional): Class names of ``folder``.
        limit (int, optional): At most this many images of each part, evenly spread.
        value_range: How values of more than 8 bits become 0 to 255, see
            :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``, one range that is
            found from the images of train and val together.

    Returns:
        EvaluationData: The data sets and their classes.

    Raises:
        FileNotFoundError: If folders or files are missing.
        ValueError: If the name is unknown, ``folder`` comes without classes, or
            ``value_range`` has the wrong form.
    """
    if name.endswith('.py'):
        found = _of_config(name)
    elif name in _LOADERS:
        where, load = _LOADERS[name]
        folder = Path(root or where)
        if where and not folder.is_dir():
            raise FileNotFoundError(
                f'{name} is expected in {folder}, which does not exist; give '
                'its place as root (--root DIR)'
            )
        found = load(name, folder, classes)
    else:
        raise ValueError(
            f'data must be one of {", ".join(_LOADERS)}, or a config file of '
            f'MMSegmentation, got {name!r}'
        )
    share_range((found.train, found.val), value_range)
    if limit is not None:
        found = found._replace(
            val=Subset(found.val, limit), train=found.train and Subset(found.train, limit)
        )
    return found


def _folder(name: str, root: Path, classes: Optional[Sequence[str]]) -> EvaluationData:
    if name == 'camvid':
        classes = CAMVID
    if not classes:
        raise ValueError("data 'folder' needs the names of its classes: --classes NAME NAME ...")
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
    things = range(2, 11) if name == 'camvid' else range(1, len(classes))
    skipped = {'road', 'pavement', 'tree', 'fence'} if name == 'camvid' else set()
    return EvaluationData(
        name,
        'segmentation',
        tuple(classes),
        parts[1],
        parts[0],
        tuple(i for i in things if classes[i] not in skipped),
    )


def _toy(name: str, root: Path, classes: Optional[Sequence[str]]) -> EvaluationData:
    names = ToyScenes.CLASSES
    if name == 'toy':
        train, val = (LabeledScenes(ToyScenes(split, 200)) for split in ('memory', 'test'))
        return EvaluationData(name, 'segmentation', names, val, train, tuple(range(3, len(names))))
    train, val = (
        _ToyObjects(ToyScenes(split, 400, scene='single')) for split in ('memory', 'test')
    )
    return EvaluationData(name, 'classification', names[3:], val, train)


class _ToyObjects:
    """Toy images of one object, with its class."""

    def __init__(self, scenes: ToyScenes) -> None:
        self.scenes = LabeledScenes(scenes)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.scenes[index]
        counts = torch.bincount(sample['label'].flatten(), minlength=len(ToyScenes.CLASSES))
        return dict(image=sample['image'], label=int(counts[3:].argmax()))


def _class_folders(name: str, root: Path, classes: Optional[Sequence[str]]) -> EvaluationData:
    train, val = ClassFolder(root / 'train'), ClassFolder(root / 'val')
    if train.classes != val.classes:
        raise ValueError(
            f'{root}/train and {root}/val must hold the same classes, got '
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


def _mmseg(name: str, root: Path, classes: Optional[Sequence[str]]) -> EvaluationData:
    kind, options, things = _MMSEG[name]
    train, val = (dict(type=kind, data_root=str(root), **part) for part in options)
    return _of_mmseg(name, train, val, things)


def _of_mmseg(name: str, train: dict, val: dict, things: Sequence[int] = ()) -> EvaluationData:
    sets = [mmseg_images(name, part) for part in (train, val)]
    if sets[0].classes != sets[1].classes:
        raise ValueError(
            f'train and val of {name} must have the same classes, got '
            f'{sets[0].classes} and {sets[1].classes}'
        )
    classes = sets[1].classes
    return EvaluationData(
        name, 'segmentation', classes, sets[1], sets[0], tuple(things or range(1, len(classes)))
    )


def _of_config(path: str) -> EvaluationData:
    config = load_config(path)
    try:
        train, val = config.train_dataloader.dataset, config.val_dataloader.dataset
    except AttributeError as error:
        raise ValueError(
            f'{path} has no train_dataloader and val_dataloader; give a config of MMSegmentation'
        ) from error
    if (
        'segmentation' not in str(config.get('model', {}).get('data_preprocessor')).lower()
        and config.get('default_scope') != 'mmseg'
    ):
        raise ValueError(
            f'{path} is a config of {config.get("default_scope")}, not of MMSegmentation'
        )
    return _of_mmseg(Path(path).stem, dict(train), dict(val))


def _voc(part: str, labels: str) -> dict:
    return dict(
        ann_file=f'ImageSets/Segmentation/{part}.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path=labels),
    )


def _prefix(images: str, labels: str) -> dict:
    return dict(data_prefix=dict(img_path=images, seg_map_path=labels))


_COCO = [_prefix(f'images/{part}', f'annotations/{part}') for part in ('train2017', 'val2017')]
# Name -> class of MMSegmentation, its train and val options, object classes (default: not 0).
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
# Name -> default root ('' for none) and loader.
_LOADERS: dict[str, Any] = {
    'camvid': ('data/camvid', _folder),
    'folder': ('data', _folder),
    'voc': ('data/VOCdevkit/VOC2012', _mmseg),
    'vocaug': ('data/VOCdevkit/VOC2012', _mmseg),
    'ade20k': ('data/ade/ADEChallengeData2016', _mmseg),
    'cocostuff27': ('data/coco_stuff164k', _mmseg),
    'cocostuff171': ('data/coco_stuff164k', _mmseg),
    'cityscapes': ('data/cityscapes', _mmseg),
    'toy': ('', _toy),
    'toy-classes': ('', _toy),
    'classes': ('data/imagenet', _class_folders),
    'davis': ('data/DAVIS', _videos),
    'camvid-video': ('data/camvid', _videos),
    'clip': ('data/clip', _videos),
}
