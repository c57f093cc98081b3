"""The exact search: blocks and groups of any size, and faiss."""

from __future__ import annotations

import builtins
import sys

import pytest
import torch

from cotap_mm.ops.nearest import build_search, nearest

module = sys.modules['cotap_mm.ops.nearest']


def without_faiss(monkeypatch):
    def refuse(name, *args, **options):
        if name == 'faiss':
            raise ImportError(name)
        return original(name, *args, **options)

    original = builtins.__import__
    monkeypatch.setattr(builtins, '__import__', refuse)


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
    without_faiss(monkeypatch)
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


@pytest.mark.parametrize('sizes', [(4, 8), (7, 50), (100, 400)])
@pytest.mark.parametrize('k', [1, 6, 60])
def test_heaps_of_faiss_find_the_same(monkeypatch, sizes, k):
    pytest.importorskip('faiss')
    monkeypatch.setattr(module, '_MANY', 0)
    monkeypatch.setattr(module, '_WITH_FAISS', sizes)
    torch.manual_seed(k)
    queries, memory = torch.randn(23, 6), torch.randn(131, 6)
    parts = list(memory.split([100, 1, 30]))
    masks = (None, torch.rand(131) < 0.6)
    ours = [
        nearest(queries, each, min(k, 70), allowed=mask)
        for each in (memory, parts)
        for mask in masks
    ]
    monkeypatch.setattr(module, '_search_with_heaps', None)  # would fail if it were called
    without_faiss(monkeypatch)
    for (similarity, index), mask in zip(ours, 2 * masks):
        wanted = nearest(queries, memory, min(k, 70), allowed=mask)
        torch.testing.assert_close(similarity, wanted[0])
        assert torch.equal(index, wanted[1])


def test_faiss_copies_nothing_and_keeps_its_threads(monkeypatch):
    faiss = pytest.importorskip('faiss')
    monkeypatch.setattr(module, '_MANY', 30 * 500)
    queries, memory = torch.randn(30, 8), torch.randn(500, 8)
    given, threads = [], faiss.omp_get_max_threads()
    mm = torch.mm

    def watched(rows, block, **options):
        given.append(block.data_ptr())
        return mm(rows, block, **options)

    monkeypatch.setattr(torch, 'mm', watched)
    search = build_search(memory)
    assert search(queries, 7)[1].shape == (30, 7)
    assert given == [memory.data_ptr()] and faiss.omp_get_max_threads() == threads
    with pytest.raises(ValueError, match=r'k must be in 1..500 \(patches in the memory\), got 501'):
        search(queries, 501)


def test_rows_that_are_not_finite_are_never_found_by_faiss(monkeypatch):
    pytest.importorskip('faiss')
    monkeypatch.setattr(module, '_MANY', 0)
    memory = torch.eye(3).repeat(2, 1)
    memory[1] = float('nan')
    similarity, index = nearest(torch.eye(3), memory, 6)
    assert sorted(index[0, :5].tolist()) == [0, 2, 3, 4, 5]
    assert (index[0, 5], similarity[0, 5]) == (0, -1)


@pytest.mark.parametrize('many, kind', [(0, torch.float64), (5 * 50 + 1, torch.float32)])
def test_other_types_and_few_rows_are_searched_by_torch(monkeypatch, many, kind):
    monkeypatch.setattr(module, '_MANY', many)
    monkeypatch.setattr(module, '_search_with_heaps', None)
    queries, memory = torch.randn(5, 8).to(kind), torch.randn(50, 8).to(kind)
    assert torch.equal(build_search(memory)(queries, 3)[0], nearest(queries, memory, 3)[0])
