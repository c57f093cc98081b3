"""Tar shards are indexed in place; odd and damaged ones are refused or skipped as documented."""

from __future__ import annotations

import os
import pickle
import tarfile

import numpy as np
import pytest

from cotap_mm.datasets import BadImage, ImageList, ShardedImages, image_source, open_images
from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.datasets.sources.names import Names
from cotap_mm.datasets.sources.shards import build as build_module
from cotap_mm.datasets.sources.shards import index as index_module
from cotap_mm.datasets.sources.shards.paths import INDEX_FILE, split_shards

from .conftest import picture


@pytest.fixture
def shards(tmp_path, write_tar):
    out = tmp_path / 'shards'
    out.mkdir()
    members = [('b.png', picture(1)), ('b.json', b'{}'), ('./a.png', picture(2))]
    write_tar(out / 's-09.tar', members)
    write_tar(out / 's-10.tar', [(f'{"long" * 60}.png', picture(3)), ('.hidden.png', b'x')])
    return out


def reds(source):
    return [int(source.read(i)[0, 0, 0]) for i in range(len(source))]


def test_order_names_and_pixels(shards):
    source = open_images(shards)
    assert type(source) is ShardedImages
    assert source.names == ['b.png', 'a.png', f'{"long" * 60}.png'] and reds(source) == [1, 2, 3]
    assert source.title(1).endswith('s-09.tar: a.png')
    copy = pickle.loads(pickle.dumps(source))
    assert reds(copy) == [1, 2, 3] and fingerprint_of(copy) == fingerprint_of(source)
    assert source.is_reachable() and (shards / INDEX_FILE).is_file()


@pytest.mark.parametrize('form', [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_every_format(tmp_path, write_tar, form):
    write_tar(tmp_path / 'a.tar', [('x/y.png', picture(4))], form)
    assert reds(open_images(tmp_path / 'a.tar')) == [4]


def test_a_folder_equals_its_tar_file(folder, tmp_path):
    with tarfile.open(tmp_path / 'all.tar', 'w') as archive:
        for name in ImageList(folder).names:
            archive.add(folder / name, f'./{name}')
    packed, files = open_images(tmp_path / 'all.tar'), ImageList(folder)
    assert packed.names == files.names
    for index in (2, 5, 19):
        assert np.array_equal(packed.read(index), files.read(index))


def test_what_counts_as_shards(shards, photos, tmp_path):
    kind = {
        str(shards): 'ShardedImages',
        's3://a/b': 'ShardedImages',
        'x-{0..3}.tar': 'ShardedImages',
        str(photos): 'ImageList',
        'list.txt': 'ImageList',
    }
    assert {path: image_source(path)['type'] for path in kind} == kind
    (photos / 'old.tar').write_bytes(b'')
    assert image_source(photos)['type'] == 'ImageList'
    with pytest.raises(ValueError, match='has its own list of images; remove --ann-file'):
        image_source(shards, 'list.txt')


def test_patterns(shards):
    assert split_shards('a/b-{08..11}.tar') == ('a', [f'b-{i:02d}.tar' for i in range(8, 12)])
    assert split_shards('s3://a/b-{9..10}.tar') == ('s3://a', ['b-9.tar', 'b-10.tar'])
    assert len(split_shards('{0..9}-{0..9}.tar')[1]) == 100
    assert reds(open_images(f'{shards}/s-{{09..10}}.tar')) == [1, 2, 3]
    assert reds(open_images(f'file://{shards}/s-10.tar')) == [3]
    with pytest.raises(FileNotFoundError, match=r'2 of 4 shards do not exist .* s-11[.]tar'):
        open_images(f'{shards}/s-{{09..12}}.tar')
    with pytest.raises(ValueError, match='must count up'):
        split_shards('a-{5..3}.tar')
    with pytest.raises(ValueError, match='braces in the file name'):
        split_shards('a-{1..3}/b.tar')


def test_the_index_is_used_and_renewed(shards, write_tar, monkeypatch):
    calls = []
    read = build_module.read_headers
    monkeypatch.setattr(build_module, 'read_headers', lambda *a: calls.append(a[1]) or read(*a))
    first = fingerprint_of(open_images(shards))
    assert len(calls) == 2
    open_images(shards)
    assert len(calls) == 2
    write_tar(shards / 's-10.tar', [('c.png', picture(9))])
    source = open_images(shards)
    assert len(calls) == 4 and reds(source) == [1, 2, 9] and fingerprint_of(source) != first
    for damage in (b'', b'PK', (shards / INDEX_FILE).read_bytes()[:-40]):
        (shards / INDEX_FILE).write_bytes(damage)
        assert reds(open_images(shards)) == [1, 2, 9]
    status = os.stat(shards / 's-10.tar')
    os.utime(shards / 's-10.tar', ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    calls.clear()
    open_images(shards)
    assert len(calls) == 2


def test_a_large_index_is_mapped(shards, monkeypatch):
    source = open_images(shards)
    digest = source.names.digest()
    monkeypatch.setattr(index_module, 'MAPPED', 1)
    monkeypatch.setattr(index_module, 'build_index', None)  # the saved one is used
    monkeypatch.setattr(Names, 'joined', None)  # and what a start asks of its names is in it
    mapped = open_images(shards)
    assert mapped.names == source.names and reds(mapped) == [1, 2, 3]
    assert mapped.names.digest() == digest and mapped.some_deep(64) == [0, 1, 2]
    assert not mapped._index.size.flags.owndata and not mapped._index.size.flags.writeable


def test_a_damaged_mapped_index_is_built_again(shards, monkeypatch):
    open_images(shards)
    good = (shards / INDEX_FILE).read_bytes()
    monkeypatch.setattr(index_module, 'MAPPED', 1)
    first = good.index(b'b.png\0a.png')
    bad = [b'', b'PK', good[:-40], good[:first] + bytes(7) + good[first + 7 :]]
    bad += [good.replace(b"'descr'", b"'descx'"), good.replace(b'shards 1', b'shards 9')]
    for damage in bad:
        (shards / INDEX_FILE).unlink()
        (shards / INDEX_FILE).write_bytes(damage)
        assert reds(open_images(shards)) == [1, 2, 3]
        assert (shards / INDEX_FILE).read_bytes() == good
    content = dict(np.load(shards / INDEX_FILE))
    np.savez_compressed(shards / INDEX_FILE, **content)  # only a plain one is mapped
    assert reds(open_images(shards)) == [1, 2, 3]
    assert (shards / INDEX_FILE).read_bytes() == good
    monkeypatch.setattr(index_module, 'MAPPED', 1 << 26)
    monkeypatch.setattr(index_module, 'build_index', None)
    earlier = {key: array for key, array in content.items() if not key.startswith('name_')}
    np.savez(shards / INDEX_FILE, **earlier)
    assert reds(open_images(shards)) == [1, 2, 3]


def test_a_folder_that_cannot_be_written_to(shards, monkeypatch):
    write = index_module.atomic_write

    def refuse(path):
        if path.name == INDEX_FILE:
            raise PermissionError(13, 'read-only')
        return write(path)

    monkeypatch.setattr(index_module, 'atomic_write', refuse)
    assert reds(open_images(shards)) == [1, 2, 3] and not (shards / INDEX_FILE).exists()
    monkeypatch.setattr(index_module, 'build_index', None)  # the saved one is used
    assert reds(open_images(shards)) == [1, 2, 3]


def test_equal_names_in_several_shards(tmp_path, write_tar):
    for name in 'pq':
        write_tar(tmp_path / f'{name}.tar', [('0.png', picture(1)), (f'{name}.png', picture(2))])
    source = open_images(f'{tmp_path}/p.tar')
    assert source.names == ['0.png', 'p.png']
    names = open_images(tmp_path).names
    assert names == ['p.tar/0.png', 'p.tar/p.png', 'q.tar/0.png', 'q.tar/q.png']


def test_links_and_sparse_members_are_skipped(tmp_path, write_tar, caplog):
    link = dict(type=tarfile.SYMTYPE, linkname='a.png')
    write_tar(
        tmp_path / 'a.tar', [('a.png', picture(1)), ('b.png', b''), ('d.png', b'')],
        **{'b.png': link, 'd.png': dict(link, type=tarfile.LNKTYPE)},
    )  # fmt: skip
    assert open_images(tmp_path / 'a.tar').names == ['a.png']


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda data: data[:1000], 'must be a complete tar file: ReadError: unexpected end'),
        (lambda data: data[:1536], 'must be a complete tar file.*byte 1,536'),
        (lambda data: data[:1536] + b'x' * 512 + data[2048:], 'must be a complete tar file'),
        (lambda data: b'x' * 2048, 'must be a complete tar file'),
        (lambda data: b'', 'must be a complete tar file'),
        (lambda data: b'\x1f\x8b' + data, 'is compressed, and images are read from uncompressed'),
    ],
)
def test_damaged_shards(tmp_path, write_tar, change, message):
    path = write_tar(
        tmp_path / 'a.tar', [('a.png', b'x' * 600), ('b.png', b'y')], tarfile.GNU_FORMAT
    )
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f'a[.]tar.*{message}|a[.]tar {message}'):
        open_images(path)


def test_helpful_errors(tmp_path, write_tar):
    with pytest.raises(FileNotFoundError, match='folder of shards .* does not exist'):
        open_images(f'file://{tmp_path}/no')
    with pytest.raises(FileNotFoundError, match='contains no [*][.]tar'):
        ShardedImages(tmp_path)
    (tmp_path / 'a.tar.gz').write_bytes(b'')
    with pytest.raises(ValueError, match='a.tar.gz is compressed'):
        open_images(tmp_path)
    twice = write_tar(tmp_path / 'b.tar', [('a.png', b'1'), ('a.png', b'2')])
    with pytest.raises(ValueError, match='contains a.png twice'):
        open_images(twice)
    empty = write_tar(tmp_path / 'c.tar', [('a.txt', b'1')])
    with pytest.raises(FileNotFoundError, match='contain no images'):
        open_images(empty)


def test_a_shard_that_shrinks_or_vanishes(shards):
    source = open_images(shards)
    os.truncate(shards / 's-10.tar', 600)
    with pytest.raises(BadImage, match='truncated or replaced'):
        source.read(2)
    for path in shards.glob('*.tar'):
        path.unlink()
    assert not source.is_reachable()
