"""Damaged and hostile images never cause a crash, a hang, or a wrong shape."""

from __future__ import annotations

import collections
import io
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.datasets import BadImage, NeighborPairs, VisitSampler, read_image, save_neighbors
from tests.helpers.faults import DAMAGES, TRIES, damaged, time_limit

FORMATS = ('jpg', 'png', 'webp', 'tiff', 'bmp', 'ppm')
pytestmark = pytest.mark.filterwarnings('ignore')  # Pillow warns about unusual files


def photo(height=90, width=120, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.BICUBIC)


def encoded(kind, **options):
    buffer = io.BytesIO()
    photo(**options).save(buffer, {'jpg': 'JPEG'}.get(kind, kind.upper()))
    return buffer.getvalue()


def png_of_size(width, height, rows=b''):
    def chunk(name, data):
        return (
            struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        )

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b'')
    )


@pytest.mark.slow
def test_many_damages(tmp_path, capsys):
    """An image is either rejected with its name, or has the shape in its header."""
    contents = {kind: encoded(kind) for kind in FORMATS}
    draw, seen = random.Random(0), collections.Counter()
    for attempt in range(TRIES):
        kind = FORMATS[attempt % len(FORMATS)]
        damage = DAMAGES[attempt // len(FORMATS) % len(DAMAGES)]
        suffix = draw.choice(FORMATS) if attempt % 5 == 0 else kind  # a wrong extension
        path = tmp_path / f'{attempt}.{suffix}'
        path.write_bytes(damaged(contents[kind], damage, draw))
        with time_limit(60):
            try:
                pixels = read_image(path, (lambda h, w: h >= 40) if attempt % 2 else None)
            except BadImage as error:
                assert path.name in str(error)
                seen['rejected'] += 1
                continue
        with Image.open(path) as image:
            width, height = image.size
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        if attempt % 2 == 0:
            assert pixels.shape[:2] == (height, width), (kind, damage)
        seen['read'] += 1
        path.unlink()
    with capsys.disabled():
        print(f'\n{TRIES} damaged images: {seen["rejected"]} rejected, {seen["read"]} read')
    assert seen['rejected'] > TRIES // 4 and seen['read'] > TRIES // 20


@pytest.mark.parametrize(
    'content',
    [
        png_of_size(60_000, 60_000),
        png_of_size(2**31 - 1, 1),
        png_of_size(0, 0),
        png_of_size(20_000, 20_000, bytes(10**6)),
        png_of_size(3, 2, bytes(3)),
        b'\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01',
        b'P6 99999999 99999999 255\n',
        b'BM' + b'\xff' * 60,
        b'II*\x00' + b'\xff' * 40,
        b'RIFF\xff\xff\xff\xffWEBPVP8 ' + b'\xff' * 40,
        b'GIF89a' + b'\xff' * 20,
    ],
)
def test_bombs_and_impossible_sizes(tmp_path, content):
    for name in ('bomb.png', 'bomb.jpg'):
        (tmp_path / name).write_bytes(content)
        with time_limit(60), pytest.raises(BadImage, match=name):
            read_image(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize('num_workers', [0, 2])
def test_damaged_images_in_a_loader(tmp_path, num_workers):
    draw, good, bad = random.Random(1), 8, 16
    for index in range(good):
        (tmp_path / f'good{index}.jpg').write_bytes(encoded('jpg', seed=index))
    for index in range(bad):
        content = damaged(encoded('jpg', seed=index), ('cut', 'noise')[index % 2], draw)
        (tmp_path / f'bad{index:02d}.jpg').write_bytes(content)
    names = sorted(path.name for path in tmp_path.iterdir())
    nearest = (np.arange(len(names))[:, None] + np.arange(1, 8)) % len(names)
    save_neighbors(tmp_path / 'neighbors.npz', names, nearest)
    data = NeighborPairs(
        dict(type='ImageList', root=str(tmp_path)),
        str(tmp_path / 'neighbors.npz'),
        crops=dict(global_size=32, local_size=16),
        max_bad_fraction=1.0,
    )
    sampler = VisitSampler(data, seed=0)
    loader = torch.utils.data.DataLoader(
        data, batch_size=4, sampler=sampler, num_workers=num_workers
    )
    with time_limit(120):
        for batch, _ in zip(loader, range(12)):
            for branch in batch.values():
                assert branch['global_crops'].shape == (4, 2, 2, 32, 32, 3)
                assert all('good' in name for pair in branch['path'] for name in pair)
    assert data.branches['patch'].bad_images
    assert all('bad' in name for name in data.branches['patch'].bad_images)
