"""Downstream images with more than 8 bits: warnings, and reading by cotap_mm.LoadImage."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from cotap_mm.datasets import BadImage, LoadImage
from cotap_mm.engine.data_checks.downstream import check_data, prepare_downstream
from tests.helpers.data_check_configs import det_config, seg_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

TWELVE_BITS = ('.png', lambda pixels: np.round(pixels * 4095 / 255).astype(np.uint16))
FLOATS = ('.tif', lambda pixels: (pixels * 10).astype(np.float32))
ALL_16_BITS = ('.png', lambda pixels: (pixels * 257).astype(np.uint16))
EIGHT_BITS = ('.png', lambda pixels: pixels.astype(np.uint8))
OURS = dict(type='cotap_mm.LoadImage')
THEIRS = dict(type='LoadImageFromFile')


def pixels_of(index):
    """Gray values 0 to 255; images with an odd index are four times darker."""
    pixels = np.random.default_rng(index).integers(0, 256, (48, 64)).astype(float)
    pixels[0, :2] = 0, 255
    return np.round(pixels / 4) if index % 2 else pixels


def save(path, index, make):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make(pixels_of(index))).save(path)


def seg(root, kind, loader, count=4):
    suffix, make = kind
    for part in ('train', 'val'):
        for index in range(count):
            save(root / f'images/{part}/{index}{suffix}', index, make)
            label = np.random.default_rng(index).integers(0, 3, (48, 64)).astype(np.uint8)
            path = root / f'labels/{part}/{index}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label).save(path)
    return with_loader(seg_config(root, img_suffix=suffix), loader)


def det(root, kind, loader, count=4):
    suffix, make = kind
    for part in ('train', 'val'):
        names = [f'{part}{index}{suffix}' for index in range(count)]
        for index, name in enumerate(names):
            save(root / 'images' / name, index, make)
        (root / f'{part}.json').write_text(
            json.dumps(
                dict(
                    images=[
                        dict(id=i, file_name=name, width=64, height=48)
                        for i, name in enumerate(names)
                    ],
                    annotations=[
                        dict(
                            id=i + 1,
                            image_id=i,
                            category_id=1,
                            iscrowd=0,
                            area=1440.0,
                            bbox=[10, 6, 40, 36],
                            segmentation=[[10, 6, 50, 6, 50, 42, 10, 42]],
                        )
                        for i in range(count)
                    ],
                    categories=[dict(id=1, name='raccoon')],
                )
            )
        )
    return with_loader(det_config(root), loader)


def cls(root, kind, loader, count=4):
    pytest.importorskip('mmpretrain')
    suffix, make = kind
    for part in ('train', 'val'):
        for index in range(count):
            save(root / part / ('cat', 'dog')[index // 2] / f'{index}{suffix}', index, make)
    return with_loader(
        Config(
            dict(
                default_scope='mmpretrain',
                model=dict(type='ImageClassifier', head=dict(type='LinearClsHead', num_classes=2)),
                **{
                    f'{part}_dataloader': dict(
                        dataset=dict(
                            type='CustomDataset', data_root=str(root), data_prefix=part, pipeline=[]
                        )
                    )
                    for part in ('train', 'val')
                },
            )
        ),
        loader,
    )


def with_loader(config, loader):
    for part in ('train', 'val'):
        pipeline = config[f'{part}_dataloader'].dataset.pipeline
        config[f'{part}_dataloader'].dataset.pipeline = [
            dict(loader),
            *(step for step in pipeline if step.type != 'LoadImageFromFile'),
        ]
    config.tta_pipeline = [dict(loader), dict(type='TestTimeAug', transforms=[])]
    return config


MAKERS = [seg, det, cls]


@pytest.fixture(autouse=True)
def scope():
    yield
    DefaultScope._instance_dict.clear()


@pytest.mark.parametrize(
    'kind, values', [(TWELVE_BITS, '[0.0, 4095.0]'), (FLOATS, '[0.0, 2550.0]')]
)
@pytest.mark.parametrize('make', MAKERS)
def test_warns_if_a_library_would_lose_bits(tmp_path, make, kind, values):
    errors, warnings = check_data(make(tmp_path, kind, THEIRS))
    assert errors == [] and len(warnings) == 2  # train and val
    for warning in warnings:
        assert f'{kind[0]} has more than 8 bits, which LoadImageFromFile ' in warning
        assert (
            f"replace it by dict(type='cotap_mm.LoadImage', value_range={values}) in every"
            in warning
        )


@pytest.mark.parametrize(
    'kind, loader',
    [
        (EIGHT_BITS, THEIRS),
        (ALL_16_BITS, THEIRS),
        (TWELVE_BITS, OURS),
        (FLOATS, OURS),
        (TWELVE_BITS, dict(THEIRS, color_type='unchanged')),
        (TWELVE_BITS, dict(type='LoadMyImages')),
        (FLOATS, dict(THEIRS, imdecode_backend='tifffile')),
    ],
)
@pytest.mark.parametrize('make', MAKERS)
def test_no_warning_if_no_bits_are_lost(tmp_path, make, kind, loader):
    assert check_data(make(tmp_path, kind, loader)) == ([], [])


def test_pillow_clips_all_16_bits(tmp_path):
    config = seg(tmp_path, ALL_16_BITS, dict(THEIRS, imdecode_backend='pillow'))
    assert 'value_range=[0.0, 65535.0]' in check_data(config)[1][0]


@pytest.mark.parametrize('make', MAKERS)
def test_range_of_training_images_is_saved_and_logged(tmp_path, make, log):
    config = make(tmp_path, TWELVE_BITS, OURS)
    prepare_downstream(config)
    steps = [
        config.train_dataloader.dataset.pipeline[0],
        config.val_dataloader.dataset.pipeline[0],
        config.tta_pipeline[0],
    ]
    assert [step.value_range for step in steps] == [[0, 4095]] * 3
    messages = [record.getMessage() for record in log.records if '8 bits' in record.getMessage()]
    assert (
        len(messages) == 1
        and 'cotap_mm.LoadImage scales their values 0..4095 to 0..255' in messages[0]
    )


def test_validation_images_do_not_change_the_range(tmp_path):
    config = seg(tmp_path, TWELVE_BITS, OURS)
    for file in (tmp_path / 'images/val').iterdir():
        Image.fromarray(np.full((48, 64), 60000, np.uint16)).save(file)
    prepare_downstream(config)
    assert config.val_dataloader.dataset.pipeline[0].value_range == [0, 4095]


def test_range_of_the_config_is_kept(tmp_path, log):
    config = seg(tmp_path, TWELVE_BITS, dict(OURS, value_range=(0, 16380)))
    prepare_downstream(config)
    assert tuple(config.train_dataloader.dataset.pipeline[0].value_range) == (0, 16380)
    assert '8 bits' not in log.text


def test_8_bits_need_no_range(tmp_path):
    config = seg(tmp_path, EIGHT_BITS, OURS)
    prepare_downstream(config)
    assert 'value_range' not in config.train_dataloader.dataset.pipeline[0]


def test_test_uses_the_range_of_its_training(tmp_path):
    config = seg(tmp_path, TWELVE_BITS, OURS)
    config.test_dataloader = config.val_dataloader
    config.train_dataloader = None
    with pytest.raises(
        ValueError,
        match=r'test data .*0.png has more than 8 bits, .* test with '
        r'the config that the training has saved',
    ):
        prepare_downstream(config)


@pytest.mark.slow
@pytest.mark.parametrize('make', MAKERS)
@pytest.mark.parametrize('kind', [TWELVE_BITS, FLOATS])
def test_images_equal_those_with_8_bits(tmp_path, make, kind):
    """Within one of 255 levels, through the data set and pipeline of the library."""
    found = {}
    for name, each in (('deep', kind), ('8', EIGHT_BITS)):
        config = make(tmp_path / name, each, OURS)
        prepare_downstream(config)
        package = dict(seg='mmseg', det='mmdet', cls='mmpretrain')[make.__name__]
        registry = __import__(f'{package}.registry', fromlist=['DATASETS']).DATASETS
        inner = config.train_dataloader.dataset
        inner.pipeline = inner.pipeline[:1]
        with DefaultScope.overwrite_default_scope(package):
            dataset = registry.build(inner)
            found[name] = [dataset[index] for index in range(4)]
    for index, (deep, eight) in enumerate(zip(found['deep'], found['8'])):
        assert deep['img'].dtype == np.uint8 and deep['img'].shape == (48, 64, 3)
        assert deep['img_shape'] == deep['ori_shape'] == (48, 64)
        assert np.abs(deep['img'].astype(int) - eight['img']).max() <= 1
        assert np.array_equal(eight['img'][..., 0], pixels_of(index))


def test_8_bits_are_read_as_mmcv_reads_them(tmp_path):
    """BGR, rotated by the EXIF orientation."""
    from mmcv.transforms import LoadImageFromFile

    color = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (('a.png', {}), ('b.jpg', dict(quality=100, exif=exif)), ('c.bmp', {})):
        Image.fromarray(color).save(tmp_path / name, **options)
        ours, theirs = (
            transform(dict(img_path=str(tmp_path / name)))
            for transform in (LoadImage(), LoadImageFromFile())
        )
        assert ours['img'].shape == theirs['img'].shape and ours['img'].flags.c_contiguous
        assert np.abs(ours['img'].astype(int) - theirs['img']).max() <= (4 if 'jpg' in name else 0)
        assert {key: ours[key] for key in ('img_shape', 'ori_shape')} == {
            key: theirs[key] for key in ('img_shape', 'ori_shape')
        }
    assert LoadImage(to_float32=True)(dict(img_path=tmp_path / 'a.png'))['img'].dtype == np.float32


@pytest.mark.parametrize('package', ['mmseg', 'mmdet', 'mmpretrain'])
def test_transform_is_registered_in_each_library(package):
    registry = pytest.importorskip(f'{package}.registry').TRANSFORMS
    with DefaultScope.overwrite_default_scope(package):
        found = registry.build(dict(type='cotap_mm.LoadImage', value_range=[0, 4095]))
    assert isinstance(found, LoadImage) and 'high=(4095.0,)' in repr(found)


def test_error_without_a_range_suggests_one(tmp_path):
    save(tmp_path / 'a.png', 0, TWELVE_BITS[1])
    with pytest.raises(
        ValueError,
        match=r'a.png has more than 8 bits \(values 0..4095\), so '
        r'cotap_mm.LoadImage needs value_range=\(low, high\).*'
        r'cotap train derives them',
    ):
        LoadImage()(dict(img_path=str(tmp_path / 'a.png')))


def test_wrong_options_and_files(tmp_path):
    with pytest.raises(ValueError, match="value_range must be 'auto', None, "):
        LoadImage(value_range=(2, 1))
    with pytest.raises(ValueError, match='reads from a local disk'):
        LoadImage(backend_args=dict(backend='petrel'))
    (tmp_path / 'a.png').write_text('no image')
    os.mkfifo(tmp_path / 'b.png')
    for name in ('a.png', 'b.png', 'c.png'):
        with pytest.raises(BadImage, match=name):
            LoadImage(backend_args=None)(dict(img_path=str(tmp_path / name)))
        assert LoadImage(ignore_empty=True)(dict(img_path=str(tmp_path / name))) is None


def test_tiffs_that_only_opencv_reads_are_valid(tmp_path):
    """Three bands of floats, which Pillow cannot read."""
    import cv2

    config = seg(tmp_path, FLOATS, OURS)
    for file in tmp_path.glob('images/*/*.tif'):
        bands = np.stack([pixels_of(0).astype(np.float32)] * 3, axis=2)
        assert cv2.imwrite(str(file), bands)
    assert check_data(config) == ([], [])
    prepare_downstream(config)
    # OpenCV before 4.11 or so writes floats with a lossy compression.
    stored = [cv2.imread(str(file), -1) for file in tmp_path.glob('images/train/*.tif')]
    expected = [min(map(np.min, stored)), max(map(np.max, stored))]
    assert expected == pytest.approx([0, 255], abs=8)
    assert config.train_dataloader.dataset.pipeline[0].value_range == pytest.approx(expected)
