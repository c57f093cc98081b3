"""The index of many images is built with little memory, and without a list of them."""

from __future__ import annotations

import errno
import io
import os
import tracemalloc

import numpy as np
import pytest

from cotap_mm.datasets.sources.names import Names
from cotap_mm.datasets.sources.shards import build as build_module
from cotap_mm.datasets.sources.shards import index as index_module
from cotap_mm.datasets.sources.shards import spool as spool_module
from cotap_mm.datasets.sources.shards.headers import Members
from cotap_mm.datasets.sources.shards.index_file import read_index, write_index
from cotap_mm.datasets.sources.shards.spool import NamesSpool, Spool, has_repeats, positions
from cotap_mm.datasets.sources.shards.stores import Facts, LocalFolder

PER_SHARD = 500


class Stand(LocalFolder):
    """A folder of shards of which only the headers exist."""

    def __init__(self, root, count):
        super().__init__(str(root))
        self.found = {f's-{number:04d}.tar': Facts(9, '1') for number in range(count)}

    def files(self):
        return {**self.found, **super().files()}

    def open(self, name):
        return io.BytesIO()


@pytest.fixture
def stand(tmp_path, monkeypatch):
    def make(count, name='{shard}/{number:06d}.jpg'):
        def headers(file, title, is_packed):
            shard = title[-8:-4]
            names = [name.format(shard=shard, number=number) for number in range(PER_SHARD)]
            starts = list(range(512, 512 + PER_SHARD * 1000, 1000))
            return Members(names, starts, [each % 900 for each in starts], 0)

        monkeypatch.setattr(build_module, 'read_headers', headers)
        return Stand(tmp_path, count)

    return make


@pytest.mark.parametrize('name', ['{shard}/{number:06d}.jpg', '{number:06d}.jpg'])
def test_memory_does_not_grow_with_the_images(stand, name, monkeypatch):
    monkeypatch.setattr(build_module, '_AHEAD', 4)
    monkeypatch.setattr(build_module, '_THREADS', 2)
    monkeypatch.setattr(spool_module, '_BLOCK', 1 << 12)
    monkeypatch.setattr(spool_module, '_IN_MEMORY', 1 << 12)
    monkeypatch.setattr(index_module, 'MAPPED', 1)
    index_module.load_index(stand(1), [])  # imports what is imported at the first use
    folder = stand(100, name)
    tracemalloc.start()
    index = index_module.load_index(folder, [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    count = len(index.names)
    # The arrays take 48 bytes per image, a list of names 80.
    assert count == 100 * PER_SHARD and peak < 40 * count
    repeated = name.startswith('{number')
    assert index.names[501] == f'{"s-0001.tar" if repeated else "0001"}/000001.jpg'
    assert index.shard[[0, 499, 500, -1]].tolist() == [0, 0, 1, 99]
    assert index.start[501] == 1512 and index.size[501] == 1512 % 900


def test_a_slow_shard_keeps_few_waiting(stand, monkeypatch):
    folder, began = stand(60), []
    read = build_module._read
    monkeypatch.setattr(build_module, '_AHEAD', 3)
    monkeypatch.setattr(build_module, '_read', lambda *a: began.append(a[1]) or read(*a))
    found = build_module._in_order
    waiting = []

    def watched(pool, work, items):
        for number, each in enumerate(found(pool, work, items)):
            waiting.append(len(began) - number)
            yield each

    monkeypatch.setattr(build_module, '_in_order', watched)
    index = build_module.build_index(folder, folder.found, list(folder.found))
    assert len(index.names) == 60 * PER_SHARD and max(waiting) <= 4


def test_no_files_remain_and_a_failure_is_reported(stand, tmp_path, monkeypatch):
    folder = stand(5)
    read = build_module.read_headers

    def fail(file, title, is_packed):
        if title.endswith('s-0003.tar'):
            raise ValueError('damaged')
        return read(file, title, is_packed)

    monkeypatch.setattr(build_module, 'read_headers', fail)
    with pytest.raises(ValueError, match='damaged'):
        index_module.load_index(folder, [])
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(build_module, 'read_headers', read)
    index_module.load_index(folder, [])
    assert [path.name for path in tmp_path.iterdir()] == ['cotap_index.npz']


def test_saved_and_read_again(stand):
    folder = stand(3)
    index = build_module.build_index(folder, folder.found, list(folder.found))
    content = io.BytesIO()
    write_index(content, index)
    again = read_index(content.getvalue())
    assert again.names == index.names and again.shards == index.shards
    assert all(np.array_equal(a, b) for a, b in zip(again[3:], index[3:]))


@pytest.mark.parametrize('memory', [8, 1 << 20])
def test_repeats_are_found_among_equal_hashes(memory):
    rng = np.random.default_rng(0)
    hashes = rng.permutation(np.arange(-50, 50))
    names = [f'{number}.jpg' for number in range(100)]
    assert not has_repeats(hashes, names, memory)
    hashes[70] = hashes[20]
    assert not has_repeats(hashes, names, memory)  # of different names
    names[70] = names[20]
    assert has_repeats(hashes, names, memory)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_a_killed_process_leaves_nothing(stand, tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, '_IN_MEMORY', 0)
    folder, read = stand(5), build_module.read_headers
    child = os.fork()
    if not child:
        monkeypatch.setattr(build_module, '_AHEAD', 1)
        monkeypatch.setattr(
            build_module,
            'read_headers',
            lambda *a: os._exit(7) if 's-0003' in a[1] else read(*a),
        )
        index_module.load_index(folder, [])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('in_memory', [0, 10, 1 << 20])
def test_spools(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(spool_module, '_BLOCK', 2)
    monkeypatch.setattr(spool_module, '_IN_MEMORY', in_memory)
    assert Spool(np.int32).array().shape == (0,)
    spool = Spool(np.int32, tmp_path)
    for part in ([1, 2], [], [3, 1, 1]):
        spool.append(np.array(part))
    assert spool.array().tolist() == [1, 2, 3, 1, 1] and not list(tmp_path.iterdir())
    assert positions(spool.array(), 1) == [0, 3, 4]
    names = NamesSpool(tmp_path)
    assert names.names() == []
    for part in (['a', 'größe'], [], ['\udcff'], ['c', 'd']):
        names.append(Names(part))
    assert names.names() == ['a', 'größe', '\udcff', 'c', 'd'] == Names(names.names())


def test_a_full_disk(stand, tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, '_IN_MEMORY', 0)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    open_file, used = spool_module.tempfile.TemporaryFile, set()

    def limited(dir):
        used.add(dir)
        if dir == tmp_path:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return open_file(dir=dir)

    monkeypatch.setattr(spool_module.tempfile, 'TemporaryFile', limited)
    assert len(index_module.load_index(stand(2), []).names) == 2 * PER_SHARD
    assert used == {tmp_path, tmp_path / 'cache' / 'cotap_mm' / 'shards'}
