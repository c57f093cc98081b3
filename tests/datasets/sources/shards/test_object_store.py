"""Images in a stand-in of S3: range requests, a cache, and what goes wrong."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cotap_mm.datasets import ImageList, open_images, pack_shards
from cotap_mm.datasets import read_with_retry as retrying
from cotap_mm.datasets.sources.decoding import UnreachableImage
from cotap_mm.datasets.sources.shards.cache import folder_size
from cotap_mm.datasets.sources.shards.images import ShardedImages
from cotap_mm.datasets.sources.shards.paths import INDEX_FILE
from cotap_mm.datasets.sources.shards.stores import RemoteFolder, explain
from cotap_mm.datasets.workers import ReadingSigns
from tests.helpers.default_runs import run, write_toy_config
from tests.helpers.toy_config import write_init


@pytest.fixture
def packed(store, folder, tmp_path):
    """Shards in the bucket; the same images as files."""
    pack_shards(ImageList(folder), tmp_path / 'shards', 10_000)
    if store.exists('images/packed'):
        store.rm('images/packed', recursive=True)
    store.put(str(tmp_path / 'shards'), 'images/packed', recursive=True)
    return 's3://images/packed'


@pytest.fixture
def requests(monkeypatch):
    names, read = [], RemoteFolder.read
    monkeypatch.setattr(RemoteFolder, 'read', lambda self, *a: names.append(a[0]) or read(self, *a))
    return names


def equal(source, files, indices):
    return all(np.array_equal(source.read(i), files.read(i)) for i in indices)


def test_one_request_per_image(packed, folder, requests):
    source, files = open_images(packed), ImageList(folder)
    assert source.names == files.names and requests == [INDEX_FILE]
    source.found_range()  # of PNG files, which can have 16 bits
    requests.clear()
    assert equal(source, files, (13, 2, 8)) and len(requests) == 3
    assert source.is_reachable()


def test_a_large_index_is_copied_once(packed, folder, requests, monkeypatch):
    monkeypatch.setattr('cotap_mm.datasets.sources.shards.index.MAPPED', 1)
    files = ImageList(folder)
    for _ in range(2):
        source = open_images(packed)
        assert source.names == files.names and not source._index.size.flags.owndata
        assert requests == [INDEX_FILE]
    assert equal(source, files, (13, 2))


def _read_in_child(source, index, results):
    results.put(int(source.read(index).sum()))


def test_forked_workers_connect_themselves(packed, folder):
    """The parent's connections, which it has used, would hang or raise in a child."""
    source = open_images(packed)
    expected = int(source.read(3).sum())
    context = multiprocessing.get_context('fork')
    results = context.Queue()
    child = context.Process(target=_read_in_child, args=(source, 3, results))
    child.start()
    try:
        assert results.get(timeout=60) == expected
    finally:
        child.join(10)
        child.kill()


def test_shards_without_an_index(packed, folder, store, requests):
    store.rm(f'images/packed/{INDEX_FILE}')
    store.rm('images/packed/cotap_pack.json')
    first = open_images(packed)
    assert equal(first, ImageList(folder), (13, 2))
    requests.clear()
    assert open_images(f'{packed}/shard-{{000000..000001}}.tar').names == first.names[:8]
    requests.clear()


def test_the_cache_saves_requests(packed, folder, requests, tmp_path):
    files = ImageList(folder)
    options = dict(cache_dir=str(tmp_path / 'kept'), cache_gb=1)
    for count in (4, 0):  # the second source finds the copies of the first
        source = ShardedImages(packed, value_range=None, **options)
        requests.clear()
        assert equal(source, files, (2, 5, 9, 17)) and equal(source, files, (17, 5))
        assert len(requests) == count
    for path in (tmp_path / 'kept').rglob('*.data'):  # damaged copies are read again
        path.write_bytes(bytes(path.stat().st_size))
    requests.clear()
    assert equal(source, files, (2, 5, 9, 17)) and len(requests) == 4


def test_the_cache_has_a_limit(packed, folder, requests, tmp_path):
    limit = 24_576e-9  # three copies with their files of checksums
    source = ShardedImages(packed, None, str(tmp_path / 'kept'), limit)
    for _ in range(2):
        assert equal(source, ImageList(folder), range(2, 22))
    assert 0 < folder_size(tmp_path / 'kept') <= 2 * 24_576
    assert 20 < len(requests) - 1 < 40


@pytest.mark.parametrize(
    'uri, kind, message',
    [
        ('s3://images/nowhere', FileNotFoundError, 'does not exist .*check the names of bucket'),
        ('s3://no-such-bucket/x', FileNotFoundError, 'does not exist .*check the names of bucket'),
        ('nonsense://x', ValueError, 'must start with file://, s3://, gs://'),
    ],
)
def test_wrong_addresses(store, uri, kind, message):
    with pytest.raises(kind, match=message):
        open_images(uri)


@pytest.mark.parametrize(
    'listed',
    [
        [],
        [dict(name='images/packed', type='directory', size=0)],  # of the whole bucket
        [dict(name='images/nowhere', type='file', size=9)],  # no folder
    ],
)
def test_a_missing_folder_whatever_the_library_lists(monkeypatch, listed):
    system = SimpleNamespace(invalidate_cache=lambda: None, ls=lambda path, detail: listed)
    monkeypatch.setattr(RemoteFolder, '_connect', lambda self: (system, 'images/nowhere'))
    with pytest.raises(FileNotFoundError, match='does not exist .*check the names of bucket'):
        open_images('s3://images/nowhere')


def test_an_unreachable_store(store, monkeypatch):
    monkeypatch.setenv('AWS_ENDPOINT_URL', 'http://127.0.0.1:9')
    with pytest.raises(ConnectionError, match='cannot be reached .*check the network'):
        open_images('s3://images/packed')


def test_access_is_refused_without_credentials(store, monkeypatch, tmp_path):
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.delenv(name)
    monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
    monkeypatch.setenv('HOME', str(tmp_path))
    with pytest.raises(PermissionError, match='refuses access .*set the credentials'):
        open_images('s3://images/packed')


def test_a_store_that_is_gone_is_waited_for(packed, folder, monkeypatch):
    """It does not make images bad."""
    monkeypatch.setattr(retrying, '_PAUSES', (0.01,))
    source = open_images(packed)
    source.found_range()
    answers, read = iter([OSError('gone')] * 6), RemoteFolder.read

    def flaky(self, *arguments):
        error = next(answers, None)
        if error is not None:
            raise error
        return read(self, *arguments)

    monkeypatch.setattr(RemoteFolder, 'read', flaky)
    with pytest.raises(UnreachableImage, match='s3://images/packed/shard-.*gone'):
        source.encoded(5)
    assert not source.is_reachable()  # two shards are tried
    image = retrying.read_with_retry(source, 5, None, ReadingSigns())
    assert np.array_equal(image, ImageList(folder).read(5))


def test_explanations():
    assert 'pip install gcsfs' in str(explain(ImportError('x'), 'gs://a'))
    assert 'pip install s3fs' in str(explain(ImportError('x'), 's3://a'))
    refused = explain(PermissionError('Forbidden'), 's3://a')
    assert isinstance(refused, PermissionError) and 'AWS_PROFILE' in str(refused)


@pytest.mark.slow
def test_a_training_from_a_store_equals_that_from_files(packed, folder, tmp_path):
    """By the command line that users type."""
    write_toy_config(tmp_path, 'vits_folder', iters=2)
    write_init(tmp_path / 'init.pth')
    weights = []
    for images in (folder, packed):
        words = [tmp_path / 'vits_folder.py', '--images', images, '--init', tmp_path / 'init.pth']
        run([*words, '--seed', 1, '--work-dir', tmp_path / str(len(weights))])
        place = tmp_path / str(len(weights)) / 'iter_2.pth'
        weights.append(torch.load(place, weights_only=False)['state_dict'])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
