"""Neighbor files are read, converted to another order, and rejected if they do not fit."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

from cotap_mm.datasets import load_neighbors, save_neighbors

NAMES = ['a', 'b', 'c', 'd']
INDICES = np.array([[1, 2], [2, 3], [3, 0], [0, 1]])


@pytest.fixture
def path(tmp_path):
    save_neighbors(tmp_path / 'neighbors.npz', NAMES, INDICES, dict(num_readable=4))
    return tmp_path / 'neighbors.npz'


def test_saved_is_loaded(path):
    loaded = load_neighbors(path, NAMES, 2)
    assert loaded.dtype == np.int64 and np.array_equal(loaded, INDICES)
    assert np.array_equal(load_neighbors(path, NAMES, 1), INDICES[:, :1])
    with np.load(path, allow_pickle=False) as file:
        assert file['indices'].dtype == np.int32


def test_another_order_of_the_same_images(path):
    shuffled = ['c', 'a', 'd', 'b']
    loaded = load_neighbors(path, shuffled, 2)
    for i, row in enumerate(loaded):
        expected = [NAMES[j] for j in INDICES[NAMES.index(shuffled[i])]]
        assert [shuffled[j] for j in row] == expected


def test_changed_folders_are_detected(path):
    with pytest.raises(
        ValueError,
        match=r'^neighbors.npz was built for 4 images, but the folder has '
        r'5; rebuild with cotap neighbors --images IMAGES --out',
    ):
        load_neighbors(path, [*NAMES, 'e'], 2)
    with pytest.raises(ValueError, match='1 are not in the folder now, e.g. d; rebuild'):
        load_neighbors(path, ['a', 'b', 'c', 'x'], 2)


def test_files_of_the_authors(tmp_path):
    path = tmp_path / 'nns_vit.npz'
    np.savez(path, nns=INDICES)
    assert np.array_equal(load_neighbors(path, NAMES, 2), INDICES)
    with pytest.raises(ValueError, match='built for 4 images, but the folder has 3'):
        load_neighbors(path, NAMES[:3], 2)


def test_the_image_itself_is_not_a_neighbor(tmp_path):
    path = tmp_path / 'nns_vit.npz'
    np.savez(path, nns=np.concatenate([np.arange(4)[:, None], INDICES], axis=1))
    assert np.array_equal(load_neighbors(path, NAMES, 2), INDICES)
    # A copy of the image may come first, and the image itself later or not at all.
    np.savez(path, nns=np.array([[1, 0, 2], [0, 1, 3], [2, 3, 0], [0, 1, 2]]))
    assert load_neighbors(path, NAMES, 2).tolist() == [[1, 2], [0, 3], [3, 0], [0, 1]]


def test_too_few_neighbors(path):
    with pytest.raises(
        ValueError, match='has 2 neighbors per image, 3 are needed; .* --num-neighbors 3'
    ):
        load_neighbors(path, NAMES, 7)
    save_neighbors(path, NAMES, INDICES, dict(num_readable=3))  # there were no more images
    assert load_neighbors(path, NAMES, 7).shape == (4, 2)
    with pytest.raises(ValueError, match='num_neighbors must be at least 1, got 0'):
        load_neighbors(path, NAMES, 0)


@pytest.mark.parametrize(
    'arrays, message',
    [
        (dict(nns=np.zeros((4, 2))), r'integers of shape \(4, k\), got float64 \(4, 2\)'),
        (dict(nns=np.zeros(4, int)), r'got int64 \(4,\)'),
        (dict(nns=np.full((4, 2), 4)), 'must contain indices from 0 to 3, got 4 to 4'),
        (dict(nns=np.full((4, 2), -1)), 'indices from 0 to 3, got -1 to -1'),
        (dict(names=np.array(NAMES), indices=INDICES[:3]), r'integers of shape \(4, k\)'),
        (dict(names=np.array(['a', 'a', 'c', 'd']), indices=INDICES), 'built for other images'),
        (dict(x=np.zeros(1)), "must contain 'names' and 'indices', or 'nns', got"),
        (
            dict(nns=np.array([None] * 4)),
            'damaged or not a neighbor file',
        ),  # would require unpickling
        (dict(nns=INDICES, meta=np.array('[1]')), 'damaged or not a neighbor file'),
        (dict(nns=INDICES, meta=np.array('{')), 'damaged or not a neighbor file'),
    ],
)
def test_wrong_contents(tmp_path, arrays, message):
    np.savez(tmp_path / 'n.npz', **arrays)
    with pytest.raises(ValueError, match=message):
        load_neighbors(tmp_path / 'n.npz', NAMES, 2)


def test_damaged_and_missing_files(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match='damaged or not a neighbor file .* rebuild'):
        load_neighbors(path, NAMES, 2)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="cotap neighbors, or set neighbors='auto'"):
        load_neighbors(path, NAMES, 2)


def test_an_interrupted_write_leaves_the_old_file(path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError('disk full')

    monkeypatch.setattr('os.fsync', fail)
    with pytest.raises(OSError, match='disk full'):
        save_neighbors(path, NAMES[:2], INDICES[:2])
    assert np.array_equal(load_neighbors(path, NAMES, 2), INDICES)
    assert [file.name for file in path.parent.iterdir()] == ['neighbors.npz']


@pytest.mark.parametrize(
    'arrays',
    [
        dict(nns=np.zeros((4, 1_000_000), np.int32)),
        dict(nns=np.zeros((4_000_000, 1), np.int32)),
        dict(names=np.array(['a' * 1_000_000, 'b', 'c', 'd']), indices=INDICES),
        dict(names=np.array(NAMES), indices=np.zeros((4, 1_000_000), np.int32)),
        dict(names=np.array(NAMES), indices=np.zeros((4_000_000, 1), np.int32)),
        dict(names=np.array(['a'] * 1_000_000), indices=INDICES),
        dict(nns=INDICES, meta=np.array('[' * 1_000_000)),
        dict(nns=INDICES, x=np.zeros(4_000_000)),
    ],
)
def test_memory_is_bounded_by_the_number_of_images(tmp_path, arrays):
    """Files of some KB that expand to 4 MB or more are rejected without reading them."""
    np.savez_compressed(tmp_path / 'n.npz', **arrays)
    tracemalloc.start()
    try:
        load_neighbors(tmp_path / 'n.npz', NAMES, 2)
        assert 'x' in arrays
    except ValueError as error:
        assert 'x' not in arrays
        assert re.search('expected for these images|built for [41]000000 images', str(error))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    'meta, message',
    [
        ('[' * 100_000, 'RecursionError'),
        ('{"num_readable": "x"}', 'num_readable must be'),
        ('{"num_readable": NaN}', 'num_readable must be'),
        ('{"num_readable": -3}', 'got -3'),
        ('{"num_readable": 1e9}', 'num_readable must be'),
        ('{"num_readable": true}', 'got True'),
        ('{"num_readable": [[[]]]}', 'num_readable must be'),
    ],
)
def test_hostile_meta_data(tmp_path, meta, message):
    np.savez(tmp_path / 'n.npz', nns=INDICES, meta=np.array(meta))
    with pytest.raises(ValueError, match=f'is damaged or not a neighbor file .*{message}'):
        load_neighbors(tmp_path / 'n.npz', NAMES, 2)


@pytest.mark.parametrize(
    'nns, message',
    [
        (np.full((4, 2), np.nan), 'got float64'),
        (np.full((4, 2), np.inf, np.float16), 'got float16'),
        (np.zeros((4, 2), bool), 'got bool'),
        (np.zeros((4, 2), complex), 'got complex'),
        (np.full((4, 2), 2**63 + 1, np.uint64), 'must contain indices from 0 to 3'),
        (np.array([['1', '2']] * 4), 'got <U1'),
        (np.zeros((4, 2), 'V8'), 'got |V8'),
        (np.zeros((4, 2), [('a', 'i4')]), 'integers of shape'),
        (np.int64(3), 'integers of shape'),
        (np.zeros((4, 0), int), 'has 0 neighbors'),
        (np.zeros((4, 2, 2), int), 'integers of shape'),
    ],
)
def test_odd_types_and_shapes(tmp_path, nns, message):
    np.savez(tmp_path / 'n.npz', nns=nns)
    with pytest.raises(ValueError, match=message):
        load_neighbors(tmp_path / 'n.npz', NAMES, 2)


@pytest.mark.parametrize(
    'convert',
    [lambda x: np.asfortranarray(x), lambda x: x.astype('>i2'), lambda x: x.astype(np.uint8)],
)
def test_other_ways_to_store_integers(tmp_path, convert):
    np.savez(tmp_path / 'n.npz', nns=convert(INDICES))
    assert np.array_equal(load_neighbors(tmp_path / 'n.npz', NAMES, 2), INDICES)
