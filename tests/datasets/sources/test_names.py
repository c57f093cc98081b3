"""Names in one buffer behave like a list of strings, and cost neither objects nor copies."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle

import numpy as np
import pytest

from cotap_mm.datasets import ImageList
from cotap_mm.datasets.sources.formats import DEEP_SUFFIXES, end_with, suffix_of
from cotap_mm.datasets.sources.joined import JoinedImages
from cotap_mm.datasets.sources.names import NameFacts, Names, names_of, nth_true
from cotap_mm.files.atomic_write import name_bytes

ODD = ['a.png', '', 'größe/ü.JPG', 'clich\udce9.PnG', 'x' * 300, '写真.jp2', '.png', 'a\0b', 'png']


@pytest.fixture(params=[1, 2, 4, 1 << 16])
def block(request, monkeypatch):
    """Number of names that are processed at a time."""
    monkeypatch.setattr(f'{Names.__module__}._BLOCK', request.param)
    monkeypatch.setattr(f'{end_with.__module__}._AT_ONCE', request.param)


@pytest.mark.parametrize('listed', [[], [''], ['', ''], ['one'], ODD, ODD * 3])
def test_it_is_a_sequence_of_strings(listed, block):
    names = Names(listed)
    assert len(names) == len(listed) and list(names) == listed and names == listed
    assert [names[i] for i in range(len(names))] == listed
    assert [names[i - len(names)] for i in range(len(names))] == listed
    assert names == tuple(listed) and names == Names(listed) and bool(names) == bool(listed)
    assert names != [*listed, 'more'] and names != Names([*listed, 'more']) and names != 3
    for index in (len(listed), -len(listed) - 1):
        with pytest.raises(IndexError, match='index of a name'):
            names[index]
    for part in (slice(None), slice(2, 5), slice(5, 2), slice(-3, None), slice(None, None, -2)):
        assert names[part] == listed[part] and list(names[part][1:]) == listed[part][1:]
    assert pickle.loads(pickle.dumps(names)) == listed
    assert pickle.loads(pickle.dumps(names[2:5])) == listed[2:5]
    assert Names.concatenate([names, Names(), names[1:2], names]) == listed + listed[1:2] + listed


def test_equality_looks_at_every_name():
    assert Names(['ab', 'c']) != Names(['a', 'bc']) and Names(['ab', 'c']) != ['a', 'bc']
    assert Names(['x', 'ab'])[1:] == Names(['ab', 'y'])[:1]
    assert Names(['a', 'b']).index('b') == 1 and 'c' not in Names(['a', 'b'])
    assert repr(Names(['a', 'b', 'c', 'd'])) == "Names(['a', 'b', 'c', ...], 4 in all)"


@pytest.mark.parametrize('separator', [b'\0', b'\n'])
def test_digests_are_those_of_joined_names(separator, block):
    for listed in ([], ['one'], ODD, ODD * 3):
        encoded = list(map(name_bytes, listed))
        whole = separator.join(encoded)
        names = Names(['before', *listed, 'after'])[1:-1]
        assert b''.join(names.joined(separator)) == whole
        assert names.digest(separator) == hashlib.sha256(whole).hexdigest()
        assert names.digest(separator, b'x') == hashlib.sha256(b'x' + whole).hexdigest()
        assert [name for part in names.encoded_blocks(2) for name in part] == encoded


@pytest.mark.parametrize('chunk', [1, 3, 1 << 22])
def test_joined_names_are_split(monkeypatch, chunk):
    monkeypatch.setattr(f'{Names.__module__}._CHUNK', chunk)
    for data in (b'', b'a', b'a\nb', b'\n\n', b'one\nand\n\nmore\n'):
        wanted = [part.decode() for part in data.split(b'\n')]
        assert Names.from_joined(data, b'\n') == wanted
        assert Names.from_joined(data.replace(b'\n', b'\0')) == wanted


def test_offsets_of_large_buffers_have_eight_bytes(monkeypatch):
    monkeypatch.setattr(f'{Names.__module__}.offset_type', lambda size: np.uint64)
    names = Names(ODD)
    assert names.arrays()[1].dtype == np.uint64
    assert names == ODD and names[2:] == ODD[2:] and Names.concatenate([names, names]) == ODD * 2


def test_deep_formats_are_found_as_one_by_one(block):
    listed = [f'{name}{suffix}' for name in ('a', '.', 'b/c.jpg', '') for suffix in DEEP_SUFFIXES]
    listed += [name.upper() for name in listed] + ['a.jpg', 'png', 'a.pngx', 'b.png/c', '', *ODD]
    wanted = [suffix_of(name) in DEEP_SUFFIXES for name in listed]
    names = Names(['x.png', *listed])[1:]
    found = end_with(*names.arrays(), DEEP_SUFFIXES)
    assert found.tolist() == wanted
    deep = [i for i, each in enumerate(wanted) if each]
    for chosen in ([], [0], [0, 3, 4, len(deep) - 1], list(range(len(deep)))):
        assert nth_true(found, chosen) == [deep[i] for i in chosen]
    assert names.some_ending(DEEP_SUFFIXES, 5) == [deep[i * len(deep) // 5] for i in range(5)]


def test_known_facts_are_not_computed():
    facts = NameFacts('digest', ('.png',), 2, [0])
    names = Names.from_buffer(*Names(['a.png', 'b.jpg']).arrays(), facts=facts)
    assert names.digest() == 'digest' and names.some_ending(['.png'], 2) == [0]
    plain = Names(['a.png', 'b.jpg'])
    assert names.digest(b'\n') == plain.digest(b'\n')
    assert names.digest(before=b'x') == plain.digest(before=b'x')
    assert names.some_ending(['.jpg'], 2) == [1] and names.some_ending(['.png'], 1) == [0]
    assert names[1:].digest() == Names(['b.jpg']).digest()  # a part has none
    assert names[1:].some_ending(['.png'], 2) == []


def test_names_of_any_source(arrays, photos):
    source = ImageList(photos)
    assert names_of(source) is source.names
    assert names_of(arrays(3)) == ['000.png', '001.png', '002.png']
    joined = JoinedImages([source, ImageList(photos)])
    assert joined.names == [*source.names, *source.names] and joined.name(6) == 'a.png'


def test_no_object_per_name():
    count = 20_000
    gc.collect()
    before = len(gc.get_objects())
    names = Names(f'folder_{i % 100:03d}/image_{i:08d}.jpg' for i in range(count))
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert names.nbytes == count * (len('folder_000/image_00000000.jpg') + 1 + 4) - 1 + 4


def private_bytes():
    with open('/proc/self/smaps_rollup') as file:
        fields = dict(line.split(':', 1) for line in file.read().splitlines()[1:])
    return 1024 * int(fields['Private_Dirty'].split()[0])


@pytest.mark.skipif(not os.path.exists('/proc/self/smaps_rollup'), reason='needs Linux')
@pytest.mark.parametrize('kind', [Names, list])
def test_a_forked_worker_does_not_copy_the_names_that_it_reads(kind):
    """A list does, which shows that the measurement works."""
    names = kind(f'folder_{i % 100:03d}/image_{i:08d}.jpg' for i in range(200_000))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            _ = names[0]
            before = private_bytes()
            for index in range(len(names)):
                _ = names[index]
            os.write(writing, str(private_bytes() - before).encode())
        finally:
            os._exit(0)
    os.close(writing)
    grown = int(os.read(reading, 100))
    os.close(reading)
    os.waitpid(child, 0)
    assert grown < 1 << 20 if kind is Names else grown > 10 << 20  # bytes; the names have 6.8 MB
