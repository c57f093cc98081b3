"""Label masks of all formats are read identically, or rejected with their path."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.evaluation import ImageMaskFolder, VideoClips, evaluate, load_data
from cotap_mm.evaluation.data.label_files import read_label
from cotap_mm.evaluation.evaluate import PROTOCOLS
from tests.helpers.pixel_scenes import PixelEncoder, scenes

VALUES = np.array([[0, 1, 2], [2, 255, 0]] * 4).repeat(2, axis=1)  # (8, 6)


def palette(values):
    image = Image.fromarray(values.astype(np.uint8), 'P')
    image.putpalette([7, 7, 7] * 256)  # equal colors, different indices
    return image


def with_alpha(values):
    return Image.merge(
        'LA', [Image.fromarray(values.astype(np.uint8)), Image.new('L', values.shape[::-1], 255)]
    )


#: Name of a format -> suffix and function that writes it.
KINDS = {
    '8 bits': ('png', lambda values: Image.fromarray(values.astype(np.uint8))),
    '16 bits': ('png', lambda values: Image.fromarray(values.astype(np.uint16))),
    '16 bits tiff': ('tif', lambda values: Image.fromarray(values.astype(np.uint16))),
    '32 bits': ('tif', lambda values: Image.fromarray(values.astype(np.int32))),
    'palette': ('png', palette),
    'opaque alpha': ('png', with_alpha),
}
SETTINGS = {
    'dense-retrieval': dict(k=2),
    'linear-seg': dict(steps=3, train_batch=2),
    'overclustering': dict(num_clusters=4, seeds=0, kmeans='sklearn'),
}


@pytest.mark.parametrize('kind', KINDS)
def test_kinds(tmp_path, kind):
    suffix, make = KINDS[kind]
    path = tmp_path / f'a.{suffix}'
    make(VALUES).save(path)
    label = read_label(path)
    assert label.dtype == torch.int64 and label.tolist() == VALUES.tolist()


def test_one_bit_and_large_values(tmp_path):
    Image.fromarray(VALUES == 1).save(tmp_path / 'bits.png')
    assert read_label(tmp_path / 'bits.png').tolist() == (VALUES == 1).astype(int).tolist()
    Image.fromarray(np.array([[0, 300, 65535]], dtype=np.uint16)).save(tmp_path / 'large.png')
    assert read_label(tmp_path / 'large.png').tolist() == [[0, 300, 65535]]


def write_folder(root, make, suffix='png'):
    for part in ('train', 'val'):
        for index, scene in enumerate(scenes(3, seed=len(part))):
            for kind in ('images', 'labels'):
                (root / kind / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene['image'].permute(1, 2, 0).numpy()).save(
                root / f'images/{part}/{index}.jpg', quality=100
            )
            make(scene['label'].numpy()).save(root / f'labels/{part}/{index}.{suffix}')


@pytest.mark.parametrize(
    'protocol', [name for name, found in PROTOCOLS.items() if found.kind == 'segmentation']
)
def test_protocols_give_the_scores_of_8_bit_masks(tmp_path, protocol):
    if protocol == 'foreground':
        pytest.skip('the transparent encoder has no attention; it reads through the same data set')
    found = {}
    for kind in ('8 bits', '16 bits', 'palette'):
        write_folder(tmp_path / kind, KINDS[kind][1])
        data = load_data('folder', tmp_path / kind, classes=['a', 'b', 'c'])
        result = evaluate(PixelEncoder(), data, protocol, **SETTINGS.get(protocol, {}))
        found[kind] = result.to_json()['scores']
    assert found['8 bits'] == found['16 bits'] == found['palette']


def test_mmsegmentation_and_video_read_16_bits(tmp_path, monkeypatch):
    write_folder(tmp_path, KINDS['16 bits'][1])
    monkeypatch.setenv('CAMVID', str(tmp_path))
    val = load_data('configs/downstream/camvid_linear.py').val
    assert val[0]['label'].tolist() == scenes(3, seed=3)[0]['label'].tolist()
    for folder, other in (('frames', 'images'), ('masks', 'labels')):
        (tmp_path / folder).symlink_to(tmp_path / other / 'val')
    clip = VideoClips.folder(tmp_path)[0]
    assert clip.mask(0).tolist() == val[0]['label'].tolist()


def test_values_above_255_do_not_wrap_around(tmp_path, monkeypatch):
    """300 would wrap around to 44 in 8 bits."""
    write_folder(tmp_path, lambda values: Image.fromarray((values + 300).astype(np.uint16)))
    monkeypatch.setenv('CAMVID', str(tmp_path))
    data = load_data('configs/downstream/camvid_linear.py')
    assert data.val[0]['label'].min() >= 300
    with pytest.raises(
        ValueError,
        match=r'labels must be 0..10 or 255 \(ignored\), got 30\d in '
        r'.*labels/train/0\.png',
    ):
        evaluate(PixelEncoder(), data, 'dense-retrieval', k=2)


def make_fifo(path):
    os.mkfifo(path)


def sparse(path):
    with open(path, 'wb') as file:
        file.truncate(2**33)


BAD = {
    'RGB': (
        lambda path: Image.new('RGB', (6, 8), (1, 1, 1)).save(path),
        'must have one channel of class indices, got a color image',
    ),
    'RGBA': (lambda path: Image.new('RGBA', (6, 8)).save(path), 'one channel'),
    'CMYK': (lambda path: Image.new('CMYK', (6, 8)).save(path, 'TIFF'), 'one channel'),
    'transparent': (lambda path: Image.new('LA', (6, 8), (1, 100)).save(path), 'transparent'),
    'float': (lambda path: Image.new('F', (6, 8), 1.0).save(path, 'TIFF'), 'floating-point'),
    'jpeg': (lambda path: Image.new('L', (6, 8)).save(path, 'JPEG'), 'JPEG file, which changes'),
    'frames': (
        lambda path: Image.new('L', (6, 8)).save(
            path, 'TIFF', save_all=True, append_images=[Image.new('L', (6, 8))]
        ),
        'one frame, got 2',
    ),
    'empty': (lambda path: path.write_bytes(b''), r'is empty \(0 bytes\)'),
    'text': (lambda path: path.write_text('0 1 2'), 'cannot be read'),
    'cut': (lambda path: path.write_bytes(png()[:45]), 'cannot be read'),
    'bomb': (lambda path: path.write_bytes(huge_png()), 'cannot be read'),
    'fifo': (make_fifo, 'must be a regular file'),
    'folder': (lambda path: path.mkdir(), 'must be a regular file'),
    'sparse': (sparse, 'has 8192 MiB, the limit is 256 MiB'),
}


def png(size=(6, 8)):
    import io

    buffer = io.BytesIO()
    Image.new('L', size).save(buffer, 'PNG')
    return buffer.getvalue()


def huge_png():
    """Small file whose header declares 60,000 x 60,000 pixels."""
    import struct
    import zlib

    data = bytearray(png())
    data[16:24] = struct.pack('>II', 60_000, 60_000)
    data[29:33] = struct.pack('>I', zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize('kind', BAD)
def test_bad_masks_are_rejected_with_their_path(tmp_path, kind):
    write, message = BAD[kind]
    write(tmp_path / 'mask.png')
    with pytest.raises(ValueError, match=message) as found:
        read_label(tmp_path / 'mask.png')
    assert 'mask.png' in str(found.value) and '\n' not in str(found.value)


def test_missing_file_and_dangling_link(tmp_path):
    (tmp_path / 'link.png').symlink_to(tmp_path / 'nowhere.png')
    for name in ('nothing.png', 'link.png'):
        with pytest.raises(FileNotFoundError, match=f'{name} cannot be opened'):
            read_label(tmp_path / name)


@pytest.mark.parametrize(
    'size, fits',
    [((16, 12), True), ((8, 6), True), ((4, 3), True), ((6, 8), False), ((16, 6), False)],
)
def test_shape_of_the_image(tmp_path, size, fits):
    for kind in ('images', 'labels'):
        (tmp_path / kind).mkdir()
    Image.new('L', size).save(tmp_path / 'labels/a.png')
    Image.new('RGB', (16, 12)).save(tmp_path / 'images/a.png')
    data = ImageMaskFolder(tmp_path / 'images', tmp_path / 'labels')
    if fits:
        assert data[0]['label'].shape == size[::-1]
    else:
        with pytest.raises(ValueError, match=r'labels/a.png is .* its image 16 x 12; .*shape'):
            data[0]
