"""The approximate search finds what the exact one finds, resumes, and says what it misses."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cotap_mm.datasets import SearchOptions, build_neighbors, load_neighbors, search_neighbors
from cotap_mm.datasets.neighbors import search as building
from cotap_mm.datasets.neighbors.feature_file import FeatureFile
from cotap_mm.datasets.neighbors.file import neighbor_meta
from cotap_mm.datasets.neighbors.searches import ivf, recall
from cotap_mm.datasets.neighbors.searches.exact import ExactSearch, FeatureParts
from cotap_mm.datasets.neighbors.searches.found import FoundParts
from cotap_mm.distributed.file_barrier import SharedBuild
from cotap_mm.errors import UserError
from tests.helpers.forked_ranks import FORK, on_forked_ranks
from tests.helpers.neighbor_rank_work import Colors, Encoder, Together, build

pytest.importorskip('faiss')
OPTIONS = SearchOptions('ivf', nprobe=4)


def clusters(count, width=16, groups=20, seed=0):
    """Unit features in clusters."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(groups, width, generator=generator)
    noise = 0.4 * torch.randn(count, width, generator=generator)
    return F.normalize(centers[torch.arange(count) % groups] + noise, dim=1)


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Build an index of features and search in it."""

    def run(features, is_candidate, nprobe=4, k=5):
        monkeypatch.setattr('cotap_mm.distributed.file_barrier._POLL', 0.01)
        parts = FeatureParts(features)
        task = SharedBuild(tmp_path / 'n.npy', 'task')
        build = ivf.IvfIndexBuild(task, parts, is_candidate, 'x')
        search = ivf.IvfSearch(build.run(), parts, k, is_candidate, nprobe=nprobe)
        return search, search(range(parts.num_rows)), build

    return run


def test_clusters_are_found_and_zero_rows_are_not(searched):
    features = clusters(2000)
    readable = torch.arange(2000) % 50 > 0
    features[~readable] = 0
    search, found, build = searched(features.split(300), readable)
    assert build.factory == 'IVF50,Flat'
    exact = search_neighbors(features, 5, is_candidate=readable)
    share = torch.stack([torch.isin(a, b).float().mean() for a, b in zip(found, exact)])
    assert share[readable].mean() > 0.97
    assert readable[found].all() and not (found == torch.arange(2000)[:, None]).any()
    assert all(len(set(row)) == 5 for row in found.tolist())
    measured = recall.measure_recall(search, readable)
    assert measured == pytest.approx(share[readable].mean().item(), abs=0.02)
    everything, exact_found, _ = searched(features.split(300), readable, nprobe=51)
    assert (exact_found[readable] == exact[readable]).float().mean() > 0.999
    assert recall.measure_recall(everything, readable) == 1


def test_codes_are_sorted_by_the_features(searched, monkeypatch):
    monkeypatch.setattr(ivf, '_MOST_BYTES', 0)
    features, readable = clusters(2000), torch.ones(2000, dtype=torch.bool)
    search, found, build = searched(features, readable, nprobe=16)
    assert build.factory == 'IVF51_HNSW32,PQ2'
    exact = search_neighbors(features, 5)
    share = torch.stack([torch.isin(a, b).float().mean() for a, b in zip(found, exact)]).mean()
    assert share > 0.5
    similarity = (features[:, None] * features[found]).sum(dim=2)
    assert bool((similarity.diff(dim=1) <= 1e-6).all())


def test_too_few_in_the_probed_cells_are_searched_exactly(searched):
    features = torch.cat([clusters(400, groups=1), -clusters(3, groups=1)])
    readable = torch.ones(403, dtype=torch.bool)
    search, found, _ = searched(features, readable, nprobe=1, k=30)
    assert search.num_exact >= 3
    assert torch.equal(found[-3:], search_neighbors(features, 30)[-3:])


@pytest.mark.parametrize(
    'count, width, factory',
    [
        (2, 16, 'IVF1,Flat'),
        (10_000, 768, 'IVF256,Flat'),
        (1_281_167, 768, 'IVF4528,Flat'),
        (10_000_000, 768, 'IVF12649_HNSW32,PQ96'),
        (100_000_000, 384, 'IVF40000_HNSW32,PQ48'),
    ],
)
def test_the_index_follows_from_the_number_of_images(count, width, factory):
    assert ivf.choose_index(count, width) == factory


def low_recall(count=600):
    """Encoder without clusters: every image in a direction of its own."""

    class Random(Encoder):
        def __call__(self, images):
            generator = torch.Generator().manual_seed(self.seen)
            self.seen += len(images)
            return torch.randn(len(images), 16, generator=generator)

    return Random(), Colors(count, broken=(5,))


def test_a_low_recall_is_a_warning(tmp_path, log):
    encoder, source = low_recall()
    options = SearchOptions('ivf', nprobe=1)
    out = tmp_path / 'n.npy'
    build_neighbors(source, encoder, out, 3, num_workers=0, options=options)
    meta = neighbor_meta(out)
    assert 0.1 < meta['recall'] < 0.95
    assert (meta['search'], meta['index'], meta['nprobe']) == ('ivf', 'IVF15,Flat', 1)
    (warning,) = [r for r in log.records if 'recall@3' in r.message]
    assert warning.levelno == logging.WARNING
    assert 'below 0.95: raise --nprobe (in a config: neighbor_search.nprobe), e.g. to 4' in str(
        warning.message
    )
    assert [path.name for path in tmp_path.iterdir()] == ['n.npy']


def test_the_cost_of_the_exact_search_is_printed(tmp_path, log, monkeypatch):
    encoder, source = low_recall()
    build_neighbors(source, encoder, tmp_path / 'a.npy', 3, num_workers=0)
    monkeypatch.setattr(recall, 'MANY', 100)
    build_neighbors(source, low_recall()[0], tmp_path / 'b.npy', 3, num_workers=0)
    first, second = (r.message for r in log.records if r.message.startswith('exact search'))
    assert first.startswith(
        'exact search: 600 x 600 products of 16 channels (5.8e+06 multiplications), '
        '3.8e-05 GB of features; about 0 s on 1 process, projected from one block'
    )
    assert '--search ivf' not in first and '--search ivf takes less' in second


def test_an_interrupted_search_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr('cotap_mm.datasets.neighbors.searches.found._PART', 100)
    expected, out = tmp_path / 'expected.npy', tmp_path / 'n.npy'
    searched, original = [], ivf.IvfSearch.find
    source, stop_at = low_recall()[1], None

    def find(self, queries, own):
        if own[0] == stop_at:
            raise KeyboardInterrupt
        searched.append(int(own[0]))
        return original(self, queries, own)

    monkeypatch.setattr(ivf.IvfSearch, 'find', find)
    build_neighbors(source, low_recall()[0], expected, 3, num_workers=0, options=OPTIONS)
    stop_at = 300
    with pytest.raises(KeyboardInterrupt):
        build_neighbors(source, low_recall()[0], out, 3, num_workers=0, options=OPTIONS)
    stop_at = None
    parts = sorted(tmp_path.glob('n.npy.found.*'))
    assert len(parts) == 3 and len(list(tmp_path.glob('n.npy.ivf.*'))) == 3
    parts[1].write_bytes(parts[1].read_bytes()[:-1])  # damaged
    searched.clear()
    monkeypatch.setattr(ivf.IvfIndexBuild, '_train', lambda *_: pytest.fail('trained again'))
    encoder = low_recall()[0]
    build_neighbors(source, encoder, out, 3, num_workers=0, options=OPTIONS)
    assert encoder.seen == 0 and searched[1:] == [100, 300, 400, 500]  # after the sample's
    assert np.array_equal(np.load(out), np.load(expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['expected.npy', 'n.npy']


def test_an_interrupted_exact_search_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr('cotap_mm.datasets.neighbors.searches.found._PART', 100)
    done = []

    def find(self, queries, own):
        if own[0] == 200 and len(done) < 4:
            raise KeyboardInterrupt
        done.append(int(own[0]))
        return original(self, queries, own)

    original = ExactSearch.find
    monkeypatch.setattr(ExactSearch, 'find', find)
    monkeypatch.setattr(building, 'report_cost', lambda _: None)
    source, out = low_recall()[1], tmp_path / 'n.npy'
    with pytest.raises(KeyboardInterrupt):
        build_neighbors(source, low_recall()[0], out, 3, num_workers=0)
    assert done == [0, 100]
    done += [0, 0]
    build_neighbors(source, low_recall()[0], out, 3, num_workers=0)
    assert done[4:] == [200, 300, 400, 500]


class TogetherByIvf(Together):
    """Build the file by an inverted file."""

    def __call__(self, rank):
        return build(self.folder, count=200, options=OPTIONS)


@pytest.mark.skipif(FORK is None, reason='forks processes')
@pytest.mark.dist
def test_two_ranks_equal_one_process(tmp_path):
    shared, alone, results = (tmp_path / name for name in ('shared', 'alone', 'results'))
    for folder in (shared, alone, results):
        folder.mkdir()
    first, second = on_forked_ranks(TogetherByIvf(shared), results)
    expected = build(alone, count=200, options=OPTIONS)
    assert torch.equal(first['indices'], expected['indices'])
    assert torch.equal(second['indices'], expected['indices'])
    assert first['seen'] + second['seen'] == 200
    assert [path.name for path in shared.iterdir()] == ['n.npy']


def test_a_damaged_index_is_named(tmp_path):
    (tmp_path / 'x').write_bytes(b'no index')
    with pytest.raises(UserError, match='x is damaged; delete it and start again, the features'):
        ivf.read_index(tmp_path / 'x')


def test_a_found_part_that_was_deleted(tmp_path):
    parts = FoundParts(SharedBuild(tmp_path / 'n.npy', 'task'), 'x', (20, 3))
    with pytest.raises(UserError, match='n.npy.found.* was deleted while'):
        next(parts.collect())


def test_bad_options(tmp_path, monkeypatch):
    for options, message in (
        (dict(search='hnsw'), "search must be one of exact, ivf, got 'hnsw'"),
        (dict(feature_dtype='int8'), 'feature_dtype must be one of auto, float16, bfloat16'),
        (dict(nprobe=0), 'nprobe must be an integer >= 1, got 0'),
    ):
        with pytest.raises(ValueError, match=message):
            SearchOptions(**options)
    source = low_recall()[1]
    with pytest.raises(ValueError, match='use_faiss .*searches exactly'):
        build_neighbors(source, Encoder(), tmp_path / 'n.npy', use_faiss=True, options=OPTIONS)
    monkeypatch.setitem(sys.modules, 'faiss', None)
    encoder = Encoder()
    with pytest.raises(ImportError, match='faiss is not installed: pip install faiss-cpu'):
        build_neighbors(source, encoder, tmp_path / 'n.npy', options=OPTIONS)
    assert encoder.seen == 0


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_features_of_any_type(tmp_path, dtype):
    features = clusters(900, groups=3)
    features[7] = 0
    file = FeatureFile(tmp_path / 'f', dict(identity='x'), 900, dtype)
    file.append(features[:500].numpy())
    file.save()
    resumed = FeatureFile(tmp_path / 'f', dict(identity='x'), 900, dtype)
    assert not resumed.load() and (resumed.done, resumed.dtype) == (500, dtype)
    resumed.append(features[500:].numpy())
    resumed.save()
    read = FeatureFile(tmp_path / 'f', dict(identity='x'), 900, dtype)
    assert read.load() and (tmp_path / 'f').stat().st_size == read.num_bytes
    assert read[:].dtype == torch.float32 and not read[7:8].any()
    assert torch.equal(read.take(np.array([3, 7, 899])), read[:][[3, 7, 899]])
    lengths = read[:].norm(dim=1)
    assert torch.allclose(lengths[lengths > 0], torch.ones(899))
    overlap = torch.isin(
        search_neighbors(read[:], 7) + torch.arange(900)[:, None] * 900,
        search_neighbors(features, 7) + torch.arange(900)[:, None] * 900,
    )
    assert overlap.float().mean() >= dict(float16=0.999, bfloat16=0.99, float32=1)[dtype]


def test_an_unfinished_file_of_an_earlier_version_resumes(tmp_path):
    features, task = clusters(20).numpy(), dict(identity='x')
    old = FeatureFile(tmp_path / 'f', task, 20)
    old.append(features[:8])
    old.save()
    record = json.loads(old.record.read_text())
    del record['dtype']
    old.record.write_text(json.dumps(record))
    file = FeatureFile(tmp_path / 'f', task, 20, 'float16')
    file.load()
    assert (file.done, file.dtype) == (8, 'float32')
    file.append(features[8:])
    file.save()
    assert np.array_equal(np.fromfile(tmp_path / 'f', np.float32).reshape(20, -1), features)
    other = FeatureFile(tmp_path / 'g', task, 20, 'bfloat16')
    other.append(features)
    other.save()
    exact = FeatureFile(tmp_path / 'g', task, 20, 'float32')
    exact.load()
    assert (exact.done, exact.dtype) == (0, 'float32')  # computed again


def test_float16_beyond_a_million_images(tmp_path, monkeypatch):
    assert SearchOptions().dtype_for(10**6) == 'float32'
    assert SearchOptions().dtype_for(10**6 + 1) == 'float16'
    assert SearchOptions(feature_dtype='bfloat16').dtype_for(5) == 'bfloat16'
    seen = []
    monkeypatch.setattr(building, 'report_cost', lambda s: seen.append(s.features[0].dtype))
    encoder, source = low_recall(50)
    options = SearchOptions(feature_dtype='float16')
    build_neighbors(source, encoder, tmp_path / 'n.npy', 3, num_workers=0, options=options)
    names = [source.name(i) for i in range(50)]
    assert seen == ['float16'] and load_neighbors(tmp_path / 'n.npy', names, 3).shape == (50, 3)
