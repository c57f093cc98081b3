"""Shards are equal for any number of threads, are continued, and give a folder's samples."""

from __future__ import annotations

import hashlib
import shutil
import tarfile

import numpy as np
import pytest

from cotap_mm.datasets import (
    BadImage,
    ImageList,
    NeighborPairs,
    ShardedImages,
    image_source,
    open_images,
    pack_shards,
)
from cotap_mm.datasets.sources.shards import pack as pack_module
from cotap_mm.datasets.sources.shards.paths import INDEX_FILE

SIZE = 10_000  # bytes of a shard, with about four images


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob('*.tar')
    }


def test_same_names_pixels_and_bad_images(folder, tmp_path):
    files = ImageList(folder)
    failed = pack_shards(files, tmp_path / 'out', SIZE)
    assert len(failed) == 1 and failed[0].startswith('leer.png: is empty')
    packed = open_images(tmp_path / 'out')
    assert packed.names == files.names and len(digests(tmp_path / 'out')) > 3
    for index, name in enumerate(files.names):
        if name in ('größe.png', 'leer.png'):
            with pytest.raises(BadImage, match=name):
                packed.read(index)
        else:
            assert np.array_equal(packed.read(index), files.read(index))
    with tarfile.open(tmp_path / 'out' / 'shard-000000.tar') as archive:
        assert archive.getnames() == files.names[: len(archive.getnames())]
    assert max(path.stat().st_size for path in (tmp_path / 'out').glob('*.tar')) <= 20480
    assert not list(tmp_path.rglob('unfinished-*')) and not list(tmp_path.rglob('*.lock'))


def test_equal_samples_and_neighbor_files(folder, tmp_path, ring):
    files = ImageList(folder)
    pack_shards(files, tmp_path / 'out', SIZE)
    neighbors = ring(files.names)
    crops = dict(global_size=32, local_size=16)
    first, second = (
        NeighborPairs(image_source(root), neighbors, num_neighbors=3, crops=crops)
        for root in (folder, tmp_path / 'out')
    )
    for index in (0, 1, 7, 21):  # the first two are bad images
        a, b = first[index]['patch'], second[index]['patch']
        assert a['path'] == b['path'] and a.keys() == b.keys()
        for key in a:
            same = [np.array_equal(x, y) for x, y in zip(a[key], b[key])]
            assert all(same) or key == 'path', key


def test_the_number_of_threads_does_not_matter(folder, tmp_path):
    for threads in (1, 5):
        pack_shards(ImageList(folder), tmp_path / str(threads), SIZE, threads)
    assert digests(tmp_path / '1') == digests(tmp_path / '5')
    index = [(tmp_path / each / INDEX_FILE).read_bytes() for each in '15']
    assert index[0] == index[1]


def test_an_interrupted_run_continues(folder, tmp_path, monkeypatch):
    out, files = tmp_path / 'out', ImageList(folder)
    pack_shards(files, tmp_path / 'expected', SIZE)
    read, count = pack_module.read_image_bytes, []

    def fail(path):
        count.append(path)
        if len(count) == 10:
            raise OSError(28, 'No space left on device', str(out))
        return read(path)

    monkeypatch.setattr(pack_module, 'read_image_bytes', fail)
    with pytest.raises(OSError, match='No space'):
        pack_shards(files, out, SIZE, 2)
    assert 0 < len(digests(out)) < len(digests(tmp_path / 'expected'))
    with pytest.raises(ValueError, match='is an unfinished cotap pack; run the same cotap pack'):
        open_images(out)
    done = len(digests(out))
    count[:] = [None] * 10
    assert len(pack_shards(files, out, SIZE, 2)) == 1
    assert digests(out) == digests(tmp_path / 'expected')
    assert len(count) - 10 < len(files) - 2 * done  # complete shards are not written again
    (out / 'shard-000001.tar').write_bytes(b'damaged')
    pack_shards(files, out, SIZE)
    assert digests(out) == digests(tmp_path / 'expected')


def test_other_images_need_overwrite(folder, tmp_path):
    out = tmp_path / 'out'
    pack_shards(ImageList(folder), out, SIZE)
    before = digests(out)
    with pytest.raises(ValueError, match='shards of other images.*--overwrite'):
        pack_shards(ImageList(folder), out, 2 * SIZE)
    (folder / 'leer.png').unlink()
    with pytest.raises(ValueError, match='shards of other images.*--overwrite'):
        pack_shards(ImageList(folder), out, SIZE)
    assert digests(out) == before
    assert pack_shards(ImageList(folder), out, SIZE, overwrite=True) == []
    assert len(open_images(out)) == 21
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='must be empty or a folder of cotap pack'):
        pack_shards(ImageList(folder), other)
    with pytest.raises(ValueError, match='shard_bytes must be positive'):
        pack_shards(ImageList(folder), other, 0)


def test_a_copy_keeps_its_index(folder, tmp_path, monkeypatch):
    """Names of a list need no suffix of an image, which only the index knows."""
    shutil.copy(folder / 'part 0' / '0.png', folder / 'no-suffix')
    (folder / 'list.txt').write_text('no-suffix\n./part 1/1.png\nlost.png\n')
    source = ImageList(folder / 'list.txt')
    failed = pack_shards(source, tmp_path / 'out')
    assert len(failed) == 1 and 'lost.png: FileNotFoundError' in failed[0]
    shutil.copytree(tmp_path / 'out', tmp_path / 'copy', copy_function=shutil.copyfile)
    packed = ShardedImages(tmp_path / 'copy')
    assert packed.names == ['no-suffix', './part 1/1.png', 'lost.png']
    assert np.array_equal(packed.read(0), source.read(0))
