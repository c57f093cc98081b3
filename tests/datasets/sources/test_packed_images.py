"""Packed images have the same names, pixels and order as the files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cotap_mm.datasets import (
    BadImage,
    ImageList,
    NeighborPairs,
    PackedImages,
    image_source,
    open_images,
    pack_images,
)
from cotap_mm.registry import DATASETS, build

lmdb = pytest.importorskip('lmdb', reason='lmdb is not installed')
CROPS = dict(global_size=32, local_size=16)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        parent = tmp_path / 'images' / f'ordner_{i % 3}'
        parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(parent / f'bild {i}.{("jpg", "png")[i % 2]}')
    (tmp_path / 'images' / 'größe.png').write_bytes(b'no image')
    return tmp_path / 'images'


def test_same_names_and_pixels(folder, tmp_path):
    files = ImageList(folder)
    assert pack_images(files, tmp_path / 'a.lmdb') == []
    packed = build(DATASETS, dict(type='PackedImages', root=str(tmp_path / 'a.lmdb')))
    assert [packed.name(i) for i in range(len(packed))] == files.names and len(packed) == 21
    for i in np.random.default_rng(0).permutation(20):
        index = files.names.index([name for name in files.names if 'bild' in name][i])
        assert np.array_equal(packed.read(index), files.read(index))
    large = files.names.index('ordner_0/bild 0.jpg')
    assert packed.read(large, lambda height, width: height >= 20).shape == (20, 25, 3)
    with pytest.raises(BadImage, match='a.lmdb: größe.png'):
        packed.read(files.names.index('größe.png'))
    assert not list(tmp_path.glob('*.part')) and not list(tmp_path.glob('*lock*'))


@pytest.mark.slow
def test_equal_samples_for_equal_seeds_in_workers(folder, tmp_path, ring):
    (folder / 'größe.png').unlink()
    pack_images(ImageList(folder), tmp_path / 'a.lmdb')
    neighbors = ring(ImageList(folder).names)

    def samples(path, workers, context=None):
        data = NeighborPairs(image_source(path), neighbors, num_neighbors=3, crops=CROPS)
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(
            data,
            batch_size=4,
            num_workers=workers,
            shuffle=True,
            generator=generator,
            multiprocessing_context=context,
        )
        return [batch['patch'] for batch in loader]

    expected = samples(folder, 0)
    data = samples(tmp_path / 'a.lmdb', 0)
    assert len(data) == len(expected) == 5
    assert all(
        torch.equal(a['global_crops'], b['global_crops']) and a['path'] == b['path']
        for a, b in zip(expected, data)
    )
    for context, workers in (('fork', 2), ('spawn', 1)):  # which imports everything
        one = samples(tmp_path / 'a.lmdb', workers, context)
        files = samples(folder, workers, 'fork')
        assert len(one) == len(files) == 5
        assert all(
            torch.equal(a['local_crops'], b['local_crops']) and a['path'] == b['path']
            for a, b in zip(one, files)
        )


def test_an_open_file_can_be_pickled(folder, tmp_path):
    pack_images(ImageList(folder), tmp_path / 'a.lmdb')
    packed = PackedImages(tmp_path / 'a.lmdb')
    pixels = packed.read(5)
    assert np.array_equal(pickle.loads(pickle.dumps(packed)).read(5), pixels)


def test_an_interrupted_run_resumes(folder, tmp_path, monkeypatch):
    from cotap_mm.datasets.sources import packed as packed_images

    files, out = ImageList(folder), tmp_path / 'a.lmdb'
    monkeypatch.setattr(packed_images, '_BLOCK', 6)
    monkeypatch.setattr(packed_images, '_START', 8192)  # must grow while writing
    put, reads = packed_images._Writer.put, []

    def fails(self, items):
        if len(reads) == 3:  # the names' digest and two blocks are written
            raise KeyboardInterrupt
        reads.append(len(items))
        return put(self, items)

    monkeypatch.setattr(packed_images._Writer, 'put', fails)
    with pytest.raises(KeyboardInterrupt):
        pack_images(files, out)
    assert not out.exists() and out.with_name('a.lmdb.part').exists()
    monkeypatch.setattr(packed_images._Writer, 'put', put)
    for name in files.names[:12]:  # packed already, not read again
        (folder / name).unlink()
    assert pack_images(files, out) == []
    assert len(PackedImages(out)) == 21 and PackedImages(out).read(20).shape == (40, 50, 3)


def test_a_partial_file_of_another_run_is_discarded(folder, tmp_path):
    (tmp_path / 'a.lmdb.part').write_bytes(b'something else')
    pack_images(ImageList(folder), tmp_path / 'a.lmdb')
    assert len(PackedImages(tmp_path / 'a.lmdb')) == 21
    with lmdb.open(str(tmp_path / 'b.lmdb.part'), subdir=False, lock=False) as other:
        with other.begin(write=True) as change:
            change.put(b'format', b'another digest')
            change.put(b'1', b'x')
    pack_images(ImageList(folder), tmp_path / 'b.lmdb')
    assert len(PackedImages(tmp_path / 'b.lmdb')) == 21


def test_an_unreadable_file_keeps_its_index(folder, tmp_path):
    files = ImageList(folder)
    (folder / files.names[3]).unlink()
    failed = pack_images(files, tmp_path / 'a.lmdb')
    assert len(failed) == 1 and failed[0].startswith(files.names[3])
    packed = PackedImages(tmp_path / 'a.lmdb')
    with pytest.raises(BadImage, match='when it was packed'):
        packed.read(3)
    assert packed.read(4).shape == (40, 50, 3)


def test_wrong_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match='cotap pack'):
        PackedImages(tmp_path / 'no.lmdb')
    (tmp_path / 'text.lmdb').write_bytes(b'hello ' * 5000)
    with pytest.raises(ValueError, match='damaged or not an LMDB'):
        PackedImages(tmp_path / 'text.lmdb')
    with lmdb.open(str(tmp_path / 'other.lmdb'), subdir=False, lock=False) as other:
        with other.begin(write=True) as change:
            change.put(b'a', b'b')
    with pytest.raises(ValueError, match='does not contain images packed by'):
        PackedImages(tmp_path / 'other.lmdb')
    with pytest.raises(ValueError, match='lmdb, got'):
        pack_images(ImageList(folder), tmp_path / 'a.db')
    with pytest.raises(ValueError, match='remove --ann-file'):
        image_source(tmp_path / 'a.lmdb', 'list.txt')


def test_open_images_selects_the_source(folder, tmp_path):
    pack_images(ImageList(folder), tmp_path / 'a.lmdb')
    assert type(open_images(tmp_path / 'a.lmdb')) is PackedImages
    assert type(open_images(folder)) is ImageList
    assert image_source('x.txt', 'y.json') == dict(
        type='ImageList', root='x.txt', ann_file='y.json'
    )


def test_the_names_of_a_large_file_are_kept_in_a_mapped_index(folder, tmp_path, monkeypatch):
    for name, value in (('MAPPED', 0), ('_SETTLED', -60.0)):
        monkeypatch.setattr(f'cotap_mm.datasets.sources.folders.index_file.{name}', value)
    monkeypatch.delenv('COTAP_INDEX', raising=False)
    path, index = tmp_path / 'a.lmdb', tmp_path / '.a.lmdb.cotap_mm_index'
    pack_images(ImageList(folder), path)
    names = PackedImages(path).names
    assert not index.exists()  # 21 names
    monkeypatch.setattr('cotap_mm.datasets.sources.packed._INDEXED', 21)
    assert PackedImages(path).names == names and index.exists()
    with monkeypatch.context() as no_list:
        no_list.setattr(PackedImages, '_listed', None)
        again = PackedImages(path)
        assert again.names == names and again.names.digest() == names.digest()
        pickled = pickle.dumps(again)
        assert 'größe.png'.encode() not in pickled and pickle.loads(pickled).names == names
        assert np.array_equal(pickle.loads(pickled).read(1), again.read(1))
    (folder / 'größe.png').rename(folder / 'groesse.png')
    pack_images(ImageList(folder), path)  # as many others
    assert 'groesse.png' in PackedImages(path).names
    assert again.names == names
