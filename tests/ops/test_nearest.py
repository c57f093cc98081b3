"""The exact search: blocks and groups of any size, and faiss."""

from __future__ import annotations

import builtins
import sys

import pytest
import torch

from cotap_mm.ops.nearest import build_search, nearest

module = sys.modules['cotap_mm.ops.nearest']


@pytest.mark.parametrize('group', [1, 3, 32])
@pytest.mark.parametrize('sizes', [(4, 8), (7, 50), (100, 400)])
@pytest.mark.parametrize('k', [1, 6, 60])
def test_groups_and_blocks_do_not_matter(monkeypatch, group, sizes, k):
    monkeypatch.setattr(module, '_GROUP', group)
    monkeypatch.setattr(module, '_ON_CPU', sizes)
    torch.manual_seed(group)
    queries, memory = torch.randn(23, 6).double(), torch.randn(131, 6).double()
    wanted = (queries @ memory.T).topk(k, dim=1)
    parts = list(memory.split([100, 1, 30]))
    for each in (memory, parts):
        similarity, index = nearest(queries, each, k)
        torch.testing.assert_close(similarity, wanted.values)
        assert torch.equal(index, wanted.indices)
    allowed = torch.rand(131) < 0.6
    masked = (queries @ memory.T).masked_fill(~allowed, -9).topk(min(k, 40), dim=1)
    similarity, index = nearest(queries, memory, min(k, 40), allowed=allowed)
    torch.testing.assert_close(similarity, masked.values)
    assert torch.equal(index, masked.indices)


def test_sorted_columns_of_later_blocks_are_few(monkeypatch):
    """Of each block, only groups with a maximum above the k-th best so far are sorted."""
    monkeypatch.setattr(module, '_ON_CPU', (256, 1024))
    torch.manual_seed(0)
    queries, memory = torch.randn(50, 16), torch.randn(20 * 1024, 16)
    sorted_columns = []
    topk = torch.Tensor.topk

    def counted(x, *args, **options):
        sorted_columns.append(x.shape[1])
        return topk(x, *args, **options)

    monkeypatch.setattr(torch.Tensor, 'topk', counted)
    nearest(queries, memory, 5)
    found = sorted_columns[1::2]  # after the groups themselves
    assert len(found) == 20 and max(found) == 5 + 5 * 32
    assert sum(found[10:]) < 0.7 * sum(found[:10])


def without_faiss(monkeypatch):
    def refuse(name, *args, **options):
        if name == 'faiss':
            raise ImportError(name)
        return original(name, *args, **options)

    original = builtins.__import__
    monkeypatch.setattr(builtins, '__import__', refuse)


def test_faiss_finds_the_same_and_copies_nothing(monkeypatch):
    faiss = pytest.importorskip('faiss')
    torch.manual_seed(0)
    queries, memory = torch.randn(30, 8), torch.randn(500, 8)
    given = []

    def knn(queries, rows, *args, original=faiss.knn, **options):
        given.append(rows.ctypes.data)
        return original(queries, rows, *args, **options)

    monkeypatch.setattr(faiss, 'knn', knn)
    threads = faiss.omp_get_max_threads()
    similarity, index = build_search(memory)(queries, 7)
    assert given == [memory.data_ptr()] and faiss.omp_get_max_threads() == threads
    with pytest.raises(ValueError, match=r'k must be in 1..500 \(patches in the memory\), got 501'):
        build_search(memory)(queries, 501)
    without_faiss(monkeypatch)
    wanted = build_search(memory)(queries, 7)
    assert len(given) == 1
    torch.testing.assert_close(similarity, wanted[0])
    assert torch.equal(index, wanted[1])


def test_other_types_are_searched_by_torch():
    queries, memory = torch.randn(5, 8).double(), torch.randn(50, 8).double()
    assert torch.equal(build_search(memory)(queries, 3)[0], nearest(queries, memory, 3)[0])
