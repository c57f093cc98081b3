from __future__ import annotations

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from cotap_mm.command_line.config_file import load_config
from cotap_mm.evaluation import ImageMaskFolder, load_data
from cotap_mm.evaluation.data.classification import ClassFolder
from cotap_mm.evaluation.data.load import CAMVID
from cotap_mm.evaluation.data.subset import Subset
from tests.helpers.pixel_scenes import noise_scenes


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


PHOTO = np.zeros((8, 12, 3))


def labels(*values):
    return np.resize(np.array(values), (8, 12))


def test_folder(tmp_path):
    for part in ('train', 'val'):
        write(tmp_path / 'images' / part / 'a.jpg', PHOTO)
        write(tmp_path / 'labels' / part / 'a.png', labels(0, 1, 255))
    found = load_data('folder', tmp_path, classes=['ground', 'ball'])
    assert (found.kind, found.classes, found.foreground) == (
        'segmentation',
        ('ground', 'ball'),
        (1,),
    )
    assert isinstance(found.train, ImageMaskFolder) and found.val[0]['label'].shape == (8, 12)
    with pytest.raises(ValueError, match='--classes NAME'):
        load_data('folder', tmp_path)
    with pytest.raises(FileNotFoundError, match='images/val and labels/val'):
        load_data('folder', tmp_path / 'labels', classes=['a'])


def test_camvid_layout(shared_data):
    found = load_data('camvid', shared_data / 'data/camvid', limit=3)
    assert len(found.classes) == 11 and len(found.val) == len(found.train) == 3
    assert {found.classes[i] for i in found.foreground} >= {'car', 'pedestrian'}


def test_voc(tmp_path):
    write(tmp_path / 'JPEGImages' / 'a.jpg', PHOTO)
    write(tmp_path / 'SegmentationClass' / 'a.png', labels(0, 20, 255))
    lists = tmp_path / 'ImageSets/Segmentation'
    lists.mkdir(parents=True)
    for part in ('train', 'val'):
        (lists / f'{part}.txt').write_text('a\n')
    found = load_data('voc', tmp_path)
    assert len(found.classes) == 21 and found.classes[20] == 'tvmonitor'
    sample = found.val[0]
    assert sample['image'].shape == (3, 8, 12) and sample['label'].unique().tolist() == [0, 20, 255]
    with pytest.raises(FileNotFoundError, match='vocaug is incomplete'):
        load_data('vocaug', tmp_path)


def test_ade20k_value_0_is_ignored(tmp_path):
    for part in ('training', 'validation'):
        write(tmp_path / 'images' / part / 'a.jpg', PHOTO)
        write(tmp_path / 'annotations' / part / 'a.png', labels(0, 1, 150))
    found = load_data('ade20k', tmp_path)
    assert len(found.classes) == 150
    assert found.val[0]['label'].unique().tolist() == [0, 149, 255]


def test_cocostuff_and_cityscapes(tmp_path):
    for part in ('train2017', 'val2017'):
        write(tmp_path / 'images' / part / 'a.jpg', PHOTO)
        write(tmp_path / 'annotations' / part / 'a_labelTrainIds.png', labels(0, 2, 255))
    fine, kinds = load_data('cocostuff171', tmp_path), load_data('cocostuff27', tmp_path)
    assert len(fine.classes) == 171 and len(kinds.classes) == 27
    assert fine.classes[2] == 'car' and fine.val[0]['label'].unique().tolist() == [0, 2, 255]
    person, vehicle = kinds.classes.index('person'), kinds.classes.index('vehicle')
    assert kinds.val[0]['label'].unique().tolist() == sorted([person, vehicle, 255])
    for part in ('train', 'val'):
        write(tmp_path / 'leftImg8bit' / part / 'ulm/a_leftImg8bit.png', PHOTO)
        write(tmp_path / 'gtFine' / part / 'ulm/a_gtFine_labelTrainIds.png', labels(18, 255))
    city = load_data('cityscapes', tmp_path)
    assert len(city.classes) == 19 and city.val[0]['label'].unique().tolist() == [18, 255]


@pytest.mark.slow
def test_config_of_mmsegmentation(tmp_path, monkeypatch):
    for part in ('train', 'val'):
        write(tmp_path / 'images' / part / 'a.jpg', PHOTO)
        write(tmp_path / 'labels' / part / 'a.png', labels(0, 10, 255))
    monkeypatch.setenv('CAMVID', str(tmp_path))
    found = load_data('configs/downstream/camvid_linear.py')
    assert found.name == 'camvid_linear' and found.classes[10] == 'bicyclist'
    assert found.classes == CAMVID
    assert found.val[0]['label'].unique().tolist() == [0, 10, 255]
    with pytest.raises(ValueError, match='not of MMSegmentation'):
        load_data('configs/downstream/raccoon_mask-rcnn.py')


@pytest.fixture
def wrapped(tmp_path, monkeypatch):
    """Write a config whose training set is wrapped, and load its data."""
    for part in ('train', 'val'):
        for name, value in (('a', 0), ('b', 1)):
            write(tmp_path / 'images' / part / f'{name}.jpg', PHOTO)
            write(tmp_path / 'labels' / part / f'{name}.png', labels(value, 10, 255))
    monkeypatch.setenv('CAMVID', str(tmp_path))

    def load(wrap):
        config = load_config('configs/downstream/camvid_linear.py')
        for loader in (config.train_dataloader, config.val_dataloader):
            loader.dataset = wrap(loader.dataset.to_dict())
        config.dump(tmp_path / 'wrapped.py')
        return load_data(str(tmp_path / 'wrapped.py'))

    yield load
    DefaultScope._instance_dict.clear()  # set by reading a config


@pytest.mark.parametrize(
    'wrap, count',
    [
        (lambda inner: dict(type='RepeatDataset', times=40, dataset=inner), 2),
        (lambda inner: dict(type='MultiImageMixDataset', dataset=inner, pipeline=[]), 2),
        (
            lambda inner: dict(
                type='ConcatDataset',
                datasets=[inner, dict(type='RepeatDataset', times=3, dataset=inner)],
            ),
            4,
        ),
    ],
)
def test_wrapped_data_sets(wrapped, wrap, count):
    found = wrapped(wrap)
    assert len(found.train) == len(found.val) == count and found.classes[10] == 'bicyclist'
    last = found.val[count - 1]['label']
    assert last.unique().tolist() == [1, 10, 255]
    assert found.val.label_file(count - 1).endswith('val/b.png')


@pytest.mark.slow
@pytest.mark.parametrize(
    'wrap, message',
    [
        (lambda inner: dict(type='KFoldDataset', dataset=inner, fold=0), 'selects a part'),
        (lambda inner: dict(inner, data_prefix=dict(img_path='images/train')), 'no label masks'),
        (lambda inner: dict(inner, img_suffix='.tif'), 'no images in .* files ending in .tif'),
        (lambda inner: dict(inner, metainfo=None), 'has no class names'),
        (
            lambda inner: dict(inner, type='NoSuchDataset'),
            'NoSuchDataset of wrapped is not a data set',
        ),
        (
            lambda inner: dict(
                type='ConcatDataset',
                datasets=[inner, dict(inner, metainfo=dict(classes=('a', 'b')))],
            ),
            'must have the same classes',
        ),
    ],
)
def test_unusable_data_sets(wrapped, wrap, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        wrapped(wrap)


@pytest.mark.slow
def test_toy():
    found = load_data('toy', limit=2)
    assert len(found.classes) == 9 and found.train[0]['image'].shape == (3, 96, 96)
    objects = load_data('toy-classes', limit=12)
    assert objects.kind == 'classification' and len(objects.classes) == 6
    assert {objects.val[i]['label'] for i in range(12)} <= set(range(6))
    assert len({objects.val[i]['label'] for i in range(12)}) > 2


def test_class_folders(tmp_path):
    for part in ('train', 'val'):
        write(tmp_path / part / 'cat/a.jpg', np.full((40, 80, 3), 10))
        write(tmp_path / part / 'dog/b.jpg', np.full((300, 260, 3), 250))
    found = load_data('classes', tmp_path)
    assert found.classes == ('cat', 'dog') and found.kind == 'classification'
    for index, bright in ((0, 10), (1, 250)):
        sample = found.val[index]
        assert sample['image'].shape == (3, 224, 224) and sample['label'] == index
        assert abs(int(sample['image'].float().mean()) - bright) < 4
    write(tmp_path / 'val/fox/c.jpg', PHOTO)
    with pytest.raises(ValueError, match='the same classes, got 2 and 3'):
        load_data('classes', tmp_path)
    with pytest.raises(FileNotFoundError, match='a folder per class'):
        ClassFolder(tmp_path / 'test')


def test_crop_is_centered(tmp_path):
    pixels = np.zeros((256, 512, 3))
    pixels[:, 256 - 100 : 256 + 100] = 200
    write(tmp_path / 'a/a.png', pixels)
    image = ClassFolder(tmp_path)[0]['image']
    assert image.shape == (3, 224, 224)
    assert image[0, 100, 2] == 0 and image[0, 100, 112] == 200 and image[0, 100, 221] == 0


def test_subset_is_evenly_spaced():
    data = noise_scenes(10)
    subset = Subset(data, 4)
    assert subset.indices == [0, 2, 5, 7] and subset[2] is data[5]
    assert len(Subset(data, 99)) == 10
    with pytest.raises(ValueError, match='limit must be an integer >= 1'):
        Subset(data, 0)


def test_unknown_name_and_missing_folder(tmp_path):
    with pytest.raises(ValueError, match='one of camvid, folder, voc'):
        load_data('coco')
    with pytest.raises(FileNotFoundError, match='--root DIR'):
        load_data('ade20k', tmp_path / 'nothing')


def test_mask_with_several_channels_is_rejected(tmp_path):
    for part in ('training', 'validation'):
        write(tmp_path / 'images' / part / 'a.jpg', PHOTO)
        write(tmp_path / 'annotations' / part / 'a.png', PHOTO)
    with pytest.raises(ValueError, match='one channel of class indices'):
        load_data('ade20k', tmp_path).val[0]
