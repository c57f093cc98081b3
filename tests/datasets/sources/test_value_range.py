"""Values of more than 8 bits keep their contrast, consistently in all tools."""

from __future__ import annotations

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.datasets import (
    ImageList,
    NeighborPairs,
    PackedImages,
    build_neighbors,
    open_images,
    pack_images,
    read_image,
)
from cotap_mm.datasets.sources import value_range
from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.encoders.global_encoder import GlobalEncoder
from cotap_mm.encoders.images import to_pixels
from cotap_mm.evaluation.data.classification import ClassFolder


def photo(seed=0, size=(48, 64), bands=1):
    """Smooth 8-bit pixels that use the full range 0 to 255."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.BICUBIC)).astype(float)
    pixels = pixels if bands == 3 else pixels[..., 0]
    return ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).round()


def tiff(values, tags=()):
    """Encode an uncompressed TIFF of any type and number of bands."""
    kind = {'u': 1, 'i': 2, 'f': 3}[values.dtype.kind]
    height, width = values.shape[:2]
    bands = 1 if values.ndim == 2 else values.shape[2]
    entries = {
        256: [width],
        257: [height],
        258: [8 * values.itemsize] * bands,
        259: [1],
        262: [2 if bands == 3 else 1],
        273: [8],
        277: [bands],
        278: [height],
        279: [values.nbytes],
        339: [kind] * bands,
        **dict(tags),
    }
    if bands not in (1, 3):
        entries[338] = [0] * (bands - 1)
    start = 8 + values.nbytes
    rest, body = b'', struct.pack('<H', len(entries))
    for tag, value in sorted(entries.items()):
        if isinstance(value, bytes):
            code, count, raw = 2, len(value), value
        else:
            code, count, raw = 4, len(value), struct.pack(f'<{len(value)}I', *value)
        if len(raw) > 4:
            offset = start + 2 + 12 * len(entries) + 4 + len(rest)
            rest, raw = rest + raw, struct.pack('<I', offset)
        body += struct.pack('<HHI', tag, code, count) + raw.ljust(4, b'\0')
    return b'II*\0' + struct.pack('<I', start) + values.tobytes() + body + bytes(4) + rest


def png(values):
    return cv2.imencode('.png', values if values.ndim == 2 else values[..., ::-1])[1].tobytes()


GRAY = {
    '12 bits in 16, PNG': ('.png', lambda p: png((p * 4095 / 255).round().astype(np.uint16))),
    '10 bits in 16, PNG': ('.png', lambda p: png((p * 1023 / 255).round().astype(np.uint16))),
    '8 bits in 16, PNG': ('.png', lambda p: png(p.astype(np.uint16))),
    'all 16 bits, PNG': ('.png', lambda p: png((p * 257).astype(np.uint16))),
    '14-bit thermal, PNG': ('.png', lambda p: png((p * 4 + 7000).astype(np.uint16))),
    'unsigned 16, TIFF': ('.tif', lambda p: tiff((p * 11).astype(np.uint16))),
    'signed 16, TIFF': ('.tif', lambda p: tiff((p * 100 - 12000).astype(np.int16))),
    'all negative, TIFF': ('.tif', lambda p: tiff((p * 3 - 30000).astype(np.int16))),
    'signed 8, TIFF': ('.tif', lambda p: tiff((p - 128).astype(np.int8))),
    'signed 32, TIFF': ('.tif', lambda p: tiff((p * 10_000_000 - 10**9).astype(np.int32))),
    'unsigned 32, TIFF': ('.tif', lambda p: tiff((p * 10_000_000 + 10**9).astype(np.uint32))),
    'float of 0..3000, TIFF': ('.tif', lambda p: tiff((p / 255 * 3000).astype(np.float32))),
    'float of 0..1, TIFF': ('.tiff', lambda p: tiff((p / 255).astype(np.float32))),
    'float of 0..0.01, TIFF': ('.tiff', lambda p: tiff((p / 25500).astype(np.float32))),
    'float of -1..1, TIFF': ('.tif', lambda p: tiff((p / 127.5 - 1).astype(np.float32))),
    'float of 0..255, TIFF': ('.tif', lambda p: tiff(p.astype(np.float32))),
    'float of 64 bits, TIFF': ('.tif', lambda p: tiff(p * 1e5 - 1e6)),
    'PGM of 12 bits': (
        '.pgm',
        lambda p: (
            b'P5 %d %d 4095 ' % p.shape[::-1] + (p * 4095 / 255).round().astype('>u2').tobytes()
        ),
    ),
    'PFM': (
        '.pfm',
        lambda p: b'Pf\n%d %d\n-1.0\n' % p.shape[::-1] + (p[::-1] * 7).astype('<f4').tobytes(),
    ),
}
COLOR = {
    '12 bits in 48, PNG': ('.png', lambda p: png((p * 4095 / 255).round().astype(np.uint16))),
    'unsigned 16, TIFF': ('.tif', lambda p: tiff((p * 11).astype(np.uint16))),
    'signed 16, TIFF': ('.tif', lambda p: tiff((p * 100 - 12000).astype(np.int16))),
    'floats, TIFF': ('.tif', lambda p: tiff((p * 30).astype(np.float32))),
}
ALL = [(1, name) for name in GRAY] + [(3, name) for name in COLOR]


def deep(bands, name, seed=0):
    return dict(zip(('suffix', 'make'), (GRAY if bands == 1 else COLOR)[name])), photo(
        seed, bands=bands
    )


@pytest.mark.parametrize('bands, name', ALL, ids=lambda value: str(value))
def test_equal_to_the_8_bit_version(tmp_path, bands, name):
    """With every reader, within one of 255 levels."""
    how, pixels = deep(bands, name)
    (tmp_path / f'a{how["suffix"]}').write_bytes(how['make'](pixels))
    expected = np.broadcast_to(pixels if bands == 3 else pixels[..., None], (48, 64, 3))
    path = tmp_path / f'a{how["suffix"]}'
    readers = dict(
        file=read_image(path),
        encode=to_pixels(path).permute(1, 2, 0).numpy(),
        source=ImageList(tmp_path).read(0),
    )
    for reader, found in readers.items():
        assert found.dtype == np.uint8 and np.abs(found - expected).max() <= 1, reader


@pytest.mark.parametrize('bands, name', ALL, ids=lambda value: str(value))
def test_one_range_for_a_data_set(tmp_path, bands, name):
    """A dark image stays dark among others, in a folder and in a packed file."""
    how, pixels = deep(bands, name)
    dark = (pixels / 4).round()
    for stem, values in (('a', pixels), ('b', dark)):
        (tmp_path / f'{stem}{how["suffix"]}').write_bytes(how['make'](values))
    pytest.importorskip('lmdb', reason='lmdb is not installed')
    source = ImageList(tmp_path)
    pack_images(source, tmp_path / 'packed.lmdb')
    for images in (source, PackedImages(tmp_path / 'packed.lmdb')):
        for index, values in enumerate((pixels, dark)):
            expected = values if bands == 3 else values[..., None]
            assert np.abs(images.read(index) - expected).max() <= 1
        assert images.found_range() == source.found_range()


def test_classes_in_folders_have_one_range(tmp_path):
    for name, factor in (('cat', 16), ('dog', 4)):
        (tmp_path / name).mkdir()
        Image.fromarray((photo(size=(64, 64)) * factor).astype(np.uint16)).save(
            tmp_path / name / 'a.png'
        )
    images = ClassFolder(tmp_path, crop=56)
    bright, dark = (images[i]['image'].float() for i in range(2))
    assert bright.max() > 240 and (bright / 4 - dark).abs().max() <= 2


def test_the_range_is_logged_once_with_a_remedy(tmp_path, log):
    for i in range(3):
        Image.fromarray((photo(i) * 16).astype(np.uint16)).save(tmp_path / f'{i}.png')
    source = ImageList(tmp_path)
    for i in range(3):
        source.read(i)
    records = [record for record in log.records if 'more than 8 bits' in record.getMessage()]
    assert len(records) == 1 and records[0].levelname == 'WARNING'
    assert '0..4095 become 0..255' in records[0].getMessage()
    assert '--value-range LOW HIGH' in records[0].getMessage()


def test_images_that_use_the_full_range_are_not_a_warning(tmp_path, log):
    Image.fromarray((photo() * 257).astype(np.uint16)).save(tmp_path / 'a.png')
    ImageList(tmp_path).read(0)
    assert [
        record.levelname for record in log.records if 'more than 8 bits' in record.getMessage()
    ] == ['INFO']


@pytest.mark.parametrize(
    'option, expected',
    [
        ((1000, 3000), [0, 0, 128, 255, 255]),
        ([0, 4000], [0, 64, 128, 191, 255]),
        (None, [0, 4, 8, 12, 16]),
        ([[0, 4000], [2000, 2002], [0, 8000]], None),
    ],
)
def test_the_option(tmp_path, option, expected):
    values = np.array([[0, 1000, 2000, 3000, 4000]], np.uint16)
    Image.fromarray(values).save(tmp_path / 'a.png')
    Image.fromarray(np.full((1, 5), 77, np.uint8)).save(tmp_path / 'b.png')
    source = open_images(tmp_path, value_range=option)
    if expected is not None:
        assert source.read(0)[0, :, 1].tolist() == expected
    assert (source.read(1) == 77).all()
    assert fingerprint_of(source) != fingerprint_of(ImageList(tmp_path))


def test_a_range_for_each_band(tmp_path):
    values = np.full((1, 3, 3), 500, np.uint16) * np.array([[[1], [2], [4]]], np.uint16)
    (tmp_path / 'a.png').write_bytes(png(values))
    found = ImageList(tmp_path, value_range=[[0, 2000], [500, 1500], [1000, 2000]]).read(0)
    assert found[0].T.tolist() == [[64, 128, 255], [0, 128, 255], [0, 0, 255]]


@pytest.mark.parametrize(
    'option', ['Auto', (3, 1), (1, 1), (0, float('nan')), 5, [[1, 2]] * 2, ('a', 'b'), dict(low=1)]
)
def test_wrong_options(tmp_path, option):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match="value_range must be 'auto', None, "):
        ImageList(tmp_path, value_range=option)


def test_bands_with_very_different_ranges(tmp_path):
    """No band of a satellite image is black."""
    values = photo(bands=3) * np.array([1, 8, 60]) + np.array([0, 300, 100])
    (tmp_path / 'a.tif').write_bytes(tiff(values.astype(np.uint16)))
    found = ImageList(tmp_path).read(0)
    assert (found.reshape(-1, 3).max(axis=0) > 220).all()
    assert (found.reshape(-1, 3).std(axis=0) > 40).all()


@pytest.mark.parametrize('missing', ['nan', 'inf', 'huge', 'tagged'])
def test_missing_values_do_not_affect_the_range(tmp_path, missing):
    value = dict(nan=np.nan, inf=np.inf, huge=-3.4e38, tagged=-9999.0)[missing]
    pixels = photo()
    values = (pixels * 10).astype(np.float32)
    values[:20] = value
    tags = {42113: b'-9999\0'} if missing == 'tagged' else {}
    (tmp_path / 'a.tif').write_bytes(tiff(values, tags))
    found = ImageList(tmp_path).read(0)
    low, high = pixels[20:].min(), pixels[20:].max()
    low = 0 if low <= high / 10 else low
    expected = (pixels[20:, :, None] - low) * 255 / (high - low)
    assert np.abs(found[20:] - expected).max() <= 1
    assert np.isin(found[:20], (0, 255)).all()


def test_hot_pixels_do_not_affect_the_range(tmp_path):
    values = (photo(size=(200, 200)) * 4 + 7000).astype(np.uint16)
    values[3, 3], values[9, 9] = 65535, 0
    Image.fromarray(values).save(tmp_path / 'a.png')
    assert ImageList(tmp_path).read(0).std() > 40


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('bands', [1, 3])
def test_orientation_of_deep_images(tmp_path, orientation, bands):
    pixels = photo(bands=bands).astype(np.uint8)
    values = pixels.astype(np.uint16) * 16
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
    chunk = b'eXIf' + exif.tobytes()[6:]
    chunk = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    content = png(values)
    (tmp_path / 'b.png').write_bytes(content[:33] + chunk + content[33:])
    eight, found = (read_image(tmp_path / name) for name in ('a.png', 'b.png'))
    assert found.shape == eight.shape and np.abs(found - eight.astype(int)).max() <= 1
    (tmp_path / 'c.tif').write_bytes(tiff(pixels, {274: [orientation]}))
    (tmp_path / 'd.tif').write_bytes(tiff(values, {274: [orientation]}))
    eight, found = (read_image(tmp_path / name) for name in ('c.tif', 'd.tif'))
    assert found.shape == eight.shape and np.abs(found - eight.astype(int)).max() <= 1


@pytest.mark.parametrize('bands', [2, 5, 8])
def test_other_numbers_of_bands_are_rejected_with_a_remedy(tmp_path, bands):
    (tmp_path / 'a.tif').write_bytes(tiff(np.zeros((5, 6, bands), np.uint16)))
    with pytest.raises(Exception, match=f'a.tif: .*{bands} bands; .* select'):
        read_image(tmp_path / 'a.tif')


def test_8_bits_are_not_changed(tmp_path, log):
    dull = (photo(bands=3) / 10 + 100).astype(np.uint8)
    for name in ('a.png', 'b.tif', 'c.bmp', 'd.webp'):
        Image.fromarray(dull).save(tmp_path / name, lossless=True)
    source = ImageList(tmp_path)
    assert all(np.array_equal(source.read(i), dull) for i in range(4))
    assert 'more than 8 bits' not in log.text


def test_full_48_bits_equal_those_of_pillow(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, 3)).astype(np.uint16)
    (tmp_path / 'a.png').write_bytes(png(values))
    with Image.open(tmp_path / 'a.png') as image:
        assert np.array_equal(ImageList(tmp_path).read(0), np.asarray(image))


class Means:
    """Replacement for a network."""

    identity, image_size, device = 'means', 32, 'cpu'

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


def test_training_and_neighbors_see_the_same(tmp_path):
    """Neighbors and crops of 12-bit images equal those of their 8-bit versions."""
    found, batches = [], []
    for kind, factor in (('8', 1), ('12', 16)):
        folder = tmp_path / kind
        folder.mkdir()
        for i in range(6):
            Image.fromarray((photo(i) * factor).astype(np.uint16 if factor > 1 else np.uint8)).save(
                folder / f'{i}.png'
            )
        out = build_neighbors(
            ImageList(folder), Means(), tmp_path / f'{kind}.npz', 2, num_workers=0
        )
        with np.load(out) as archive:
            found.append(archive['indices'])
            assert json.loads(str(archive['meta']))['num_readable'] == 6
        data = NeighborPairs(
            dict(type='ImageList', root=str(folder)),
            str(out),
            num_neighbors=2,
            crops=dict(global_size=32, local_size=16),
        )
        torch.manual_seed(0)
        batches.append(data[3]['patch']['global_crops'].float())
    assert np.array_equal(*found)
    assert (batches[0] - batches[1]).abs().max() <= 1


def test_features_equal_those_of_8_bits(tmp_path):
    """Cosine similarity above 0.9999 for every patch of a tiny ViT."""
    from mmengine.config import Config  # noqa: F401

    encoder = GlobalEncoder(
        dict(
            type='DINOViT',
            arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
            img_size=64,
            patch_size=16,
        ),
        image_size=64,
    )
    pixels = photo(size=(64, 64))
    contents = dict(
        eight=png(pixels.astype(np.uint8)),
        **{name: make(pixels) for name, (_, make) in GRAY.items() if name not in ('PFM',)},
    )
    tokens = {}
    for name, content in contents.items():
        path = tmp_path / f'{len(tokens)}{GRAY[name][0] if name in GRAY else ".png"}'
        path.write_bytes(content)
        image = to_pixels(path)[None].float() / 255 - 0.5
        with torch.no_grad():
            tokens[name] = encoder.model.forward_tokens(image)[1][0]
    for name, deep_tokens in tokens.items():
        assert torch.cosine_similarity(deep_tokens, tokens['eight']).min() > 0.9999, name


def test_rule_by_hand():
    def found(*values, kind=np.uint16):
        return str(
            value_range.find_range([value_range.sample(np.array([v], kind)) for v in values])
        )

    assert found([0, 65535]) == found([100, 20000]) == '0..65535'
    assert found([0, 16000]) == '0..16383' and found([5, 4000]) == '0..4095'
    assert found([7000, 9000]) == '7000..9000' and found([100, 9000]) == '0..9000'
    assert found([0, 900], [3, 4095]) == '0..4095'
    assert found([3], kind=np.float32) == '0..255' and found([70000], kind=np.int32) == '0..70000'
    assert found([-5, 5], kind=np.int16) == '-5..5'


def test_pil_images():
    values = (photo() * 16).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, 'PNG')
    with Image.open(buffer) as image:
        assert np.abs(to_pixels(image)[0].numpy() - photo()).max() <= 1
