"""Neighbor files ``*.npy``: rows on use, another order, damage, and files of earlier versions."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import zlib

import numpy as np
import pytest

from cotap_mm.datasets import NeighborPairs, load_neighbors, open_neighbors, save_neighbors
from cotap_mm.datasets.neighbors import array_file, rows
from cotap_mm.datasets.neighbors.file import is_neighbor_file, is_neighbor_file_of, neighbor_meta
from cotap_mm.datasets.neighbors.name_hashes import digest_of
from cotap_mm.datasets.neighbors.rows import NeighborRows, UnreachableRows
from cotap_mm.datasets.sources.names import Names
from cotap_mm.errors import UserError

NAMES = ['a', 'b/é.png', 'c', 'd\udcff']
INDICES = np.array([[1, 2], [2, 3], [3, 0], [0, 1]])
HEADER = 128  # bytes that NumPy writes before the rows


@pytest.fixture
def path(tmp_path):
    save_neighbors(tmp_path / 'n.npy', NAMES, INDICES, dict(num_readable=4, encoder='e'))
    return tmp_path / 'n.npy'


def test_rows_are_read_on_use(path, monkeypatch):
    found = open_neighbors(path, NAMES, 2)
    assert isinstance(found, NeighborRows) and (found.shape, len(found)) == ((4, 2), 4)
    assert [found[i].tolist() for i in range(4)] == INDICES.tolist()
    assert found[-1].tolist() == [0, 1] and found[0].dtype == np.int64
    assert np.array_equal(np.asarray(found), INDICES)
    assert open_neighbors(path, NAMES, 1)[2].tolist() == [3]
    with pytest.raises(IndexError, match='from 0 to 3, got 4'):
        found[4]
    loaded = load_neighbors(path, NAMES, 2)
    assert loaded.dtype == np.int64 and np.array_equal(loaded, INDICES)
    read = []
    monkeypatch.setattr(
        array_file, 'read_exactly', lambda file, size, at: read.append(size) or bytes(size)
    )
    with pytest.raises(UserError):  # the image itself
        found[0]
    assert read == [8]  # bytes


def test_numpy_reads_the_rows(path):
    assert np.array_equal(np.load(path), INDICES)
    assert np.array_equal(np.load(path, mmap_mode='r'), INDICES)
    assert np.load(path).dtype == np.int32


def test_nothing_is_read_of_a_large_file_but_its_ends(path, monkeypatch):
    monkeypatch.setattr(array_file, '_CHECK_WHOLE', 10)
    sizes, read = [], array_file.read_exactly
    monkeypatch.setattr(
        array_file, 'read_exactly', lambda *args: sizes.append(args[1]) or read(*args)
    )
    open_neighbors(path, NAMES, 2)
    assert len(sizes) == 3 and sizes[:2] == [10, 16]  # header, end, record


@pytest.mark.parametrize('blocks', [[slice(0, 4)], [slice(0, 1), slice(1, 4)]])
def test_blocks_of_any_size(tmp_path, blocks):
    save_neighbors(tmp_path / 'n.npy', NAMES, (INDICES[block] for block in blocks))
    assert np.array_equal(load_neighbors(tmp_path / 'n.npy', NAMES, 2), INDICES)


def test_another_order_of_the_same_images(path):
    order = [2, 0, 3, 1]
    shuffled = [NAMES[i] for i in order]
    found = open_neighbors(path, shuffled, 2)
    for i, row in enumerate(found):
        assert [shuffled[j] for j in row] == [NAMES[j] for j in INDICES[order[i]]]


def test_changed_folders_are_named(path):
    with pytest.raises(ValueError, match=r'n.npy was built for 4 images, but the folder has 5 \(0'):
        open_neighbors(path, [*NAMES, 'e'], 2)
    with pytest.raises(ValueError, match=r'has 3 \(1 of 4 are not in the folder\); rebuild'):
        open_neighbors(path, NAMES[:3], 2)
    with pytest.raises(
        ValueError,
        match='built for other images: 1 of 4 are not in the folder, 1 are new, e.g. x; rebuild',
    ):
        open_neighbors(path, [*NAMES[:3], 'x'], 2)
    save_neighbors(path, ['a', 'a', 'c', 'd'], INDICES)
    with pytest.raises(ValueError, match='several of them have the same name'):
        open_neighbors(path, ['c', 'a', 'a', 'd'], 2)


def test_too_few_neighbors(path):
    with pytest.raises(ValueError, match='has 2 neighbors per image, 3 are needed; .*neighbors 3'):
        open_neighbors(path, NAMES, 7)
    save_neighbors(path, NAMES, INDICES, dict(num_readable=3))  # there were no more images
    assert open_neighbors(path, NAMES, 7).shape == (4, 2)


def test_the_digest_is_that_of_a_buffer_of_names():
    text = b'\0'.join(name.encode('utf-8', 'surrogateescape') for name in NAMES)
    assert digest_of(NAMES) == hashlib.sha256(text).hexdigest()
    assert digest_of(Names(NAMES)) == hashlib.sha256(text).hexdigest()


def rewrite(path, change):
    """Change the record of a file, with valid checksums."""
    content = path.read_bytes()
    size, _, magic = struct.unpack('<II8s', content[-16:])
    record = json.loads(content[-16 - size : -16])
    change(record)
    text = json.dumps(record).encode()
    end = struct.pack('<II8s', len(text), zlib.crc32(text), magic)
    path.write_bytes(content[: -16 - size] + text + end)


DAMAGE = {
    'an empty file': (lambda p: p.write_bytes(b''), 'truncated'),
    'text': (lambda p: p.write_text('no array, but long enough'), 'not start as an array of NumPy'),
    'cut rows': (lambda p: p.write_bytes(p.read_bytes()[: HEADER + 9]), 'rows need 160'),
    'cut end': (lambda p: p.write_bytes(p.read_bytes()[:-1]), 'its end is not the record'),
    'a bit of the rows': (lambda p: flip(p, HEADER + 2), 'out of range or the image itself'),
    'a bit of a hash': (lambda p: flip(p, HEADER + 33), None),
    'a bit of the record': (lambda p: flip(p, -40), 'checksum of its record'),
    'saved again': (lambda p: np.save(p, np.load(p)), 'without the record that cotap neighbors'),
    'int64': (lambda p: np.save(p, INDICES), 'int32 in C order, .* got <i8 in C order'),
    'big-endian': (lambda p: np.save(p, INDICES.astype('>i4')), 'got >i4'),
    'float': (lambda p: np.save(p, INDICES.astype('f4')), 'got <f4'),
    'Fortran order': (lambda p: np.save(p, np.asfortranarray(INDICES, '<i4')), 'Fortran order'),
    'one axis': (lambda p: np.save(p, INDICES[:, 0].astype('<i4')), r'got <i4 in C order, \(4,\)'),
    'no rows': (lambda p: np.save(p, np.zeros((0, 2), '<i4')), r'must be \(N, k\)'),
    'objects': (lambda p: np.save(p, np.array([None] * 4)), 'got |O'),
    'another version': (
        lambda p: rewrite(p, lambda r: r.update(version=2)),
        'version 2 of the format',
    ),
    'no version': (lambda p: rewrite(p, lambda r: r.pop('version')), 'version'),
    'meta': (
        lambda p: rewrite(p, lambda r: r.update(meta=[1])),
        'must be of type dict',
    ),
    'readable': (lambda p: rewrite(p, lambda r: r['meta'].update(num_readable=9)), 'from 2 to 4'),
    'checksum': (lambda p: rewrite(p, lambda r: r.update(rows_crc32=1)), 'checksum of its rows'),
}


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize('kind', DAMAGE)
def test_damage(path, kind):
    damage, message = DAMAGE[kind]
    damage(path)
    if message is None:  # hashes are not used in the same order
        assert np.array_equal(load_neighbors(path, NAMES, 2), INDICES)
        with pytest.raises(ValueError, match='checksum of the names'):
            load_neighbors(path, NAMES[::-1], 2)
        return
    pattern = f'n.npy is damaged or not a neighbor file .*{message}.*; rebuild it with cotap'
    with pytest.raises(ValueError, match=pattern):
        load_neighbors(path, NAMES, 2)
    assert not is_neighbor_file_of(path, NAMES, 2, {})


def test_wrong_neighbors_are_not_written(tmp_path):
    for indices, message in (
        (INDICES + 1, r'from 0 to 3 and not the image itself, got \[3, 4\] for image 1'),
        (INDICES * 0, r'got \[0, 0\] for image 0'),
        (INDICES[:3], 'needs neighbors of 4 images, got 3'),
        (np.concatenate([INDICES, INDICES[:1]]), 'needs neighbors of 4 images, got more'),
        (INDICES.astype(float), 'integers of shape .* got float64'),
        (INDICES[:, 0], 'integers of shape'),
        (INDICES[:, :0], 'integers of shape'),
    ):
        with pytest.raises(ValueError, match=message):
            save_neighbors(tmp_path / 'n.npy', NAMES, indices)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"must end in .npy or .npz, got 'n.txt'"):
        save_neighbors(tmp_path / 'n.txt', NAMES, INDICES)


@pytest.fixture
def unchecked(monkeypatch):
    """Files count as too large to be checked as a whole."""
    monkeypatch.setattr(array_file, '_CHECK_WHOLE', 10)


def test_a_file_that_is_truncated_or_damaged_while_it_is_open(path, unchecked):
    found = open_neighbors(path, NAMES, 2)
    with open(path, 'r+b') as file:
        file.seek(HEADER + 2)
        file.write(b'\1')  # 65537
        file.truncate(HEADER + 20)
    with pytest.raises(UserError, match=r'n.npy is damaged: the neighbors of image 0 .* \[65537'):
        found[0]
    assert found[1].tolist() == [2, 3]
    with pytest.raises(UserError, match='n.npy was truncated while it was being used; restore'):
        found[3]  # a memory-mapped file would kill the process (SIGBUS)


def test_other_processes_open_the_file_again(path):
    found = pickle.loads(pickle.dumps(open_neighbors(path, NAMES, 2)))
    assert found[1].tolist() == [2, 3]
    again = pickle.loads(pickle.dumps(found))
    save_neighbors(path, NAMES, INDICES[:, ::-1])
    assert found[1].tolist() == [2, 3]  # open since before
    with pytest.raises(UserError, match='n.npy was replaced since it was opened; start again'):
        again[1]


def test_a_disk_that_was_gone(path, monkeypatch):
    found = open_neighbors(path, NAMES, 2)
    with monkeypatch.context() as patch:
        patch.setattr(array_file, 'read_exactly', stale)
        with pytest.raises(UnreachableRows, match='n.npy: OSError: .*Stale file handle'):
            found[1]
        assert found._file is None
    assert found[1].tolist() == [2, 3]


def stale(*_):
    raise OSError(116, 'Stale file handle')


def test_a_training_waits_for_its_neighbor_file(arrays, ring, monkeypatch):
    monkeypatch.setattr('cotap_mm.datasets.read_with_retry._PAUSES', (0.01,))
    source = arrays(6)
    pairs = NeighborPairs(source, ring(source.names, name='n.npy'), num_neighbors=3)
    branch = pairs.branches['patch']
    tries = []

    def read(self, start, stop):
        tries.append(start)
        return stale() if len(tries) < 4 else original(self, start, stop)

    original = array_file.ArrayFile.read
    monkeypatch.setattr(array_file.ArrayFile, 'read', read)
    monkeypatch.setattr(rows.NeighborRows, 'is_reachable', lambda self: len(tries) > 2)
    assert sorted(branch.neighbors_of(2).tolist()) == [3, 4, 5] and tries == [2] * 4


def test_all_formats_give_the_same_samples(arrays, tmp_path):
    source = arrays(8, size=(40, 40))
    nearest = (np.arange(8)[:, None] + np.arange(1, 4)) % 8
    save_neighbors(tmp_path / 'new.npy', source.names, nearest)
    save_neighbors(tmp_path / 'old.npz', source.names, nearest)
    own = np.arange(8)[:, None]
    np.savez(tmp_path / 'nns_vit.npz', nns=np.concatenate([own, nearest], axis=1))
    crops = dict(global_size=16, local_size=8, num_local=1)
    for draws in range(2):
        samples = []
        for name in ('new.npy', 'old.npz', 'nns_vit.npz'):
            pairs = NeighborPairs(source, str(tmp_path / name), num_neighbors=3, crops=crops)
            samples.append([pairs[i]['patch']['path'] for i in range(8)])
        assert samples[0] == samples[1] == samples[2], draws


def test_what_a_file_is(path, tmp_path):
    assert is_neighbor_file(path) and neighbor_meta(path)['encoder'] == 'e'
    assert is_neighbor_file_of(path, NAMES, 2, dict(encoder='e'))
    assert not is_neighbor_file_of(path, NAMES, 2, dict(encoder='f'))
    np.save(tmp_path / 'other.npy', INDICES)
    with pytest.raises(ValueError, match='not a neighbor file'):
        is_neighbor_file(tmp_path / 'other.npy')
