"""The reader agrees with LMDB; damage that would kill LMDB is an error."""

from __future__ import annotations

import collections
import os
import random
import struct

import pytest

from cotap_mm.datasets import BadImage, ImageList, PackedImages, pack_images
from cotap_mm.datasets.sources.lmdb_reader import DamagedLmdb, LmdbReader
from tests.helpers.faults import time_limit

lmdb = pytest.importorskip('lmdb', reason='lmdb is not installed')


def written(path, items):
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28) as environment:
        for start in range(0, len(items), 500):
            with environment.begin(write=True) as change:
                for key, value in items[start : start + 500]:
                    change.put(key, value)
    return path


@pytest.mark.parametrize(
    'count, longest', [(0, 1), (1, 10), (40, 20_000), (6_000, 40), (3_000, 3_000)]
)
def test_equal_to_lmdb(tmp_path, count, longest):
    draw = random.Random(count)
    items = {
        draw.randbytes(draw.randint(1, 30)): draw.randbytes(draw.randint(0, longest))
        for _ in range(count)
    }
    reader = LmdbReader(written(tmp_path / 'a.lmdb', list(items.items())))
    assert reader.entries == len(items) and not reader.is_short
    assert all(reader.get(key) == value for key, value in items.items())
    missing = [draw.randbytes(draw.randint(1, 30)) for _ in range(200)]
    assert all(reader.get(key) is None for key in missing if key not in items)
    reader.check()


def test_keys_that_were_changed_and_deleted(tmp_path):
    items = {struct.pack('>Q', i): bytes([i % 256]) * (i % 9000) for i in range(900)}
    path = written(tmp_path / 'a.lmdb', list(items.items()))
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28) as environment:
        with environment.begin(write=True) as change:
            for i in range(0, 900, 3):
                change.delete(struct.pack('>Q', i))
                del items[struct.pack('>Q', i)]
            for i in range(1, 900, 3):
                change.put(struct.pack('>Q', i), b'new')
                items[struct.pack('>Q', i)] = b'new'
    reader = LmdbReader(path)
    reader.check()
    assert reader.entries == 600
    assert all(
        reader.get(struct.pack('>Q', i)) == items.get(struct.pack('>Q', i)) for i in range(900)
    )


def test_limit(tmp_path):
    reader = LmdbReader(written(tmp_path / 'a.lmdb', [(b'k', bytes(10_000))]))
    assert reader.get(b'k', 10_000) == bytes(10_000)
    with pytest.raises(DamagedLmdb, match='10,000 bytes exceeds the limit of 9,999'):
        reader.get(b'k', 9_999)


@pytest.fixture
def packed(photos, tmp_path):
    """Packed file with enough images for several leaves."""
    content = (photos / 'b.jpg').read_bytes()
    for i in range(300):
        (photos / f'{i:03d}.jpg').write_bytes(content + bytes(i))
    pack_images(ImageList(photos), tmp_path / 'complete.lmdb')
    return tmp_path / 'complete.lmdb'


def changed(content, kind, draw):
    data = bytearray(content)
    if kind == 'truncated':
        return content[: draw.randrange(len(data))]
    if kind == 'truncated, with a tail':
        return content[: draw.randrange(len(data))] + draw.randbytes(draw.randrange(100_000))
    if kind == 'hole':
        start = draw.randrange(len(data))
        data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    elif kind == 'pages swapped':
        a, b = (4096 * draw.randrange(len(data) // 4096) for _ in range(2))
        data[a : a + 4096], data[b : b + 4096] = data[b : b + 4096], data[a : a + 4096]
    elif kind == 'one byte':
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    else:  # headers of pages and nodes
        page = 4096 * draw.randrange(min(12, len(data) // 4096))
        for _ in range(4):
            data[page + draw.randrange(200)] = draw.randrange(256)
    return bytes(data)


KINDS = ('truncated', 'truncated, with a tail', 'hole', 'pages swapped', 'one byte', 'headers')


@pytest.mark.slow
def test_200_damaged_files(packed, tmp_path, capsys):
    """Run in this process: a crash would abort the test."""
    content, draw, seen = packed.read_bytes(), random.Random(0), collections.Counter()
    names = PackedImages(packed).names
    for number in range(200):
        path = tmp_path / f'{number}.lmdb'
        path.write_bytes(changed(content, KINDS[number % len(KINDS)], draw))
        with time_limit(60):
            try:
                source = PackedImages(path)
            except ValueError as error:
                assert path.name in str(error)
                seen['rejected'] += 1
                continue
            for index in range(0, len(source), 7):
                try:
                    assert source.read(index).shape == (20, 30, 3)
                    seen['images read'] += 1
                except BadImage as error:
                    assert path.name in str(error) and source.names[index] in str(error)
                    seen['bad images'] += 1
        assert len(source) == len(names)
        seen['opened'] += 1
        os.unlink(path)
    with capsys.disabled():
        print(f'\n200 damaged packed files: {dict(seen)}')
    assert seen['rejected'] > 60 and seen['bad images'] > 50 and seen['images read'] > 1000


@pytest.mark.parametrize('kept', [0, 4096, 0.5, 0.999])
def test_truncated_files_are_rejected_with_their_name(packed, tmp_path, kept):
    content = packed.read_bytes()
    path = tmp_path / 'short.lmdb'
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(ValueError, match='short.lmdb is damaged'):
        PackedImages(path)


def test_truncated_while_open(packed):
    source = PackedImages(packed)
    assert source.read(5).shape == (20, 30, 3)
    os.truncate(packed, packed.stat().st_size // 3)
    seen = collections.Counter()
    for index in range(len(source)):
        try:
            source.read(index)
            seen['read'] += 1
        except BadImage as error:
            assert 'truncated' in str(error) and source.names[index] in str(error)
            seen['bad'] += 1
    assert seen['bad'] > 100


def test_damaged_partial_file_of_an_interrupted_run(packed, photos, tmp_path):
    """LMDB itself would map it for writing."""
    part = tmp_path / 'again.lmdb.part'
    draw = random.Random(3)
    for kind in KINDS:
        part.write_bytes(changed(packed.read_bytes(), kind, draw))
        assert pack_images(ImageList(photos), tmp_path / 'again.lmdb') == []
        assert PackedImages(tmp_path / 'again.lmdb').read(305).shape == (20, 30, 3)
