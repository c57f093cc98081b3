"""Images of more than 8 bits give the same results as their 8-bit versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import cotap_mm.commands.evaluate
from cotap_mm.evaluation import VideoClips, load_data
from cotap_mm.evaluation.protocols.video_segmentation import label_propagation, propagate
from tests.helpers.pixel_scenes import PixelEncoder
from tests.helpers.tool_loading import load_tool

#: How values of 0..255 are stored: (suffix, conversion of float pixels).
KINDS = {
    '12 bits in 16': ('.png', lambda pixels: np.round(pixels * 4095 / 255).astype(np.uint16)),
    'floats': ('.tif', lambda pixels: (pixels * 11.5).astype(np.float32)),
    'signed': ('.tif', lambda pixels: (pixels * 10_000_000 - 10**9).astype(np.int32)),
}
#: One of 255 levels in units of the normalized input; 0.225 is the smallest divisor.
LEVEL = 1 / 255 / 0.224


def bright_and_dark(count=4, size=16):
    """Gray pixels of ``count`` images; odd images have a quarter of the brightness."""
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (size, size)).astype(float)
        pixels[0, :2] = 0, 255
        yield np.round(pixels / 4) if index % 2 else pixels


def write_images(folder, kind, count=4):
    suffix, make = KINDS.get(kind, ('.png', lambda pixels: pixels.astype(np.uint8)))
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(bright_and_dark(count)):
        Image.fromarray(make(pixels)).save(folder / f'{index}{suffix}')
    return suffix


def write_labels(folder, count=4):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        label = np.random.default_rng(index).integers(0, 3, (16, 16)).astype(np.uint8)
        Image.fromarray(label).save(folder / f'{index}.png')


def write_clip(root, kind):
    write_images(root / 'frames', kind)
    write_labels(root / 'masks')
    return VideoClips.folder(root)


class Recorder(PixelEncoder):
    """Record the normalized input images (B, 3, H, W)."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _encode(self, images):
        self.seen.append(images)
        return super()._encode(images)


def pixels_of(measure):
    encoder = Recorder()
    measure(encoder)
    return torch.cat(encoder.seen)


def of_clips(clips):
    return pixels_of(lambda encoder: label_propagation(encoder, clips, image_size=16))


@pytest.mark.parametrize('kind', KINDS)
def test_frames_equal_8_bit_frames(tmp_path, kind):
    """Up to one of 255 levels; a frame with a quarter of the brightness keeps it."""
    wanted = of_clips(write_clip(tmp_path / '8', '8 bits'))
    found = of_clips(write_clip(tmp_path / 'deep', kind))
    assert (found - wanted).abs().max() <= 1.01 * LEVEL
    paths = VideoClips.folder(tmp_path / 'deep')[0].frames
    direct = pixels_of(
        lambda encoder: list(propagate(encoder, paths, torch.ones(16, 16), image_size=16))
    )
    assert torch.equal(direct, found)


def test_brightness_ratio_of_frames_is_kept(tmp_path):
    mean, std = 123.675 / 255, 58.395 / 255  # red channel
    frames = of_clips(write_clip(tmp_path, '12 bits in 16'))[:, 0] * std + mean
    assert frames[0].max() == pytest.approx(1) and frames[1].max() == pytest.approx(0.25, abs=0.003)


def test_all_clips_share_one_range_which_is_logged_once(tmp_path, log):
    for name, factor in (('bright', 16), ('dark', 4)):
        folder = tmp_path / 'JPEGImages/480p' / name
        folder.mkdir(parents=True)
        for index, pixels in enumerate(bright_and_dark()):
            Image.fromarray((pixels * factor).astype(np.uint16)).save(folder / f'{index}.png')
        write_labels(tmp_path / 'Annotations/480p' / name)
    lists = tmp_path / 'ImageSets/2017'
    lists.mkdir(parents=True)
    (lists / 'val.txt').write_text('dark\nbright')
    dark, bright = of_clips(VideoClips.davis(tmp_path)).split(4)
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None] / 255
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None] / 255
    assert ((bright * std + mean) / 4 - (dark * std + mean)).abs().max() <= 1.01 / 255
    logged = [each for each in log.messages if 'more than 8 bits' in each]
    assert len(logged) == 1 and '0..4095 become 0..255' in logged[0]


def test_range_of_clips_is_configurable(tmp_path):
    write_clip(tmp_path, '12 bits in 16')
    frames = of_clips(VideoClips.folder(tmp_path, value_range=(0, 16380)))
    assert frames[0, 0].max() * 58.395 / 255 + 123.675 / 255 == pytest.approx(0.25, abs=0.003)
    with pytest.raises(ValueError, match="value_range must be 'auto', None, "):
        VideoClips.folder(tmp_path, value_range=(3, 1))


def mmseg_config(root, suffix, wrap=lambda inner: inner):
    """Write a config of MMSegmentation, and return its path."""

    def loader(part):
        return dict(
            dataset=wrap(
                dict(
                    type='BaseSegDataset',
                    data_root=str(root),
                    metainfo=dict(classes=('a', 'b', 'c')),
                    img_suffix=suffix,
                    pipeline=[],
                    data_prefix=dict(img_path=f'images/{part}', seg_map_path=f'labels/{part}'),
                )
            )
        )

    path = root / 'config.py'
    Config(
        dict(
            default_scope='mmseg',
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            model=dict(type='EncoderDecoder'),
        )
    ).dump(path)
    return str(path)


def concatenated(inner):
    return dict(type='ConcatDataset', datasets=[inner, inner])


@pytest.mark.parametrize('wrap', [lambda inner: inner, concatenated])
@pytest.mark.parametrize('kind', KINDS)
def test_mmsegmentation_images_equal_8_bit_images(tmp_path, kind, wrap):
    pytest.importorskip('mmseg')
    for part in ('train', 'val'):
        suffix = write_images(tmp_path / 'images' / part, kind)
        write_labels(tmp_path / 'labels' / part)
    data = load_data(mmseg_config(tmp_path, suffix, wrap))
    for part in (data.train, data.val):
        for index, pixels in enumerate(bright_and_dark()):
            found = part[index]['image'].numpy()
            assert found.dtype == np.uint8 and np.abs(found - pixels).max() <= 1


def test_range_of_data_is_configurable(tmp_path):
    write_images(tmp_path / 'images/val', '12 bits in 16')
    write_labels(tmp_path / 'labels/val')
    data = load_data('folder', tmp_path, ['a', 'b', 'c'], value_range=(0, 16380))
    assert data.val[0]['image'].max() == 64  # 4095 of 16380
    with pytest.raises(ValueError, match="value_range must be 'auto', None, "):
        load_data('folder', tmp_path, ['a', 'b', 'c'], value_range=(3, 1))


@pytest.mark.slow
def test_result_files_depend_on_the_range(tmp_path):
    parse_args = load_tool('evaluate').parse_args
    result_file = cotap_mm.commands.evaluate.result_file
    data = load_data('toy')
    names = [
        result_file(
            parse_args(['x', '--protocol', 'knn', '--data', 'toy', *more]),
            'knn',
            data,
            'x',
            PixelEncoder(),
            {},
        ).name
        for more in ([], ['--value-range', '0', '9'], ['--value-range', '0', '8'])
    ]
    assert len(set(names)) == 3


@pytest.mark.parametrize('name', ['folder', 'config', 'classes'])
def test_train_and_val_share_one_range(tmp_path, name, log):
    """Training images are bright, validation images are dark."""
    for part, pixels in zip(('train', 'val'), bright_and_dark(2)):
        folder = tmp_path / ('images' if name != 'classes' else '') / part / 'a'
        folder.mkdir(parents=True)
        # Large enough that the crop of 224 pixels does not resize.
        values = np.kron(pixels, np.ones((16, 16))) if name == 'classes' else pixels
        Image.fromarray((values * 16).astype(np.uint16)).save(folder / '0.png')
        write_labels(tmp_path / 'labels' / part / 'a', 1)
    if name == 'config':
        pytest.importorskip('mmseg')
        data = load_data(mmseg_config(tmp_path, '.png'))
    else:
        data = load_data(name, tmp_path, ['a', 'b', 'c'] if name == 'folder' else None)
    assert data.train[0]['image'].max() >= 254 and 62 <= data.val[0]['image'].max() <= 65
    assert sum('more than 8 bits' in each for each in log.messages) == 1
