"""Every sample once per pass, and one stream sharded across ranks."""

from __future__ import annotations

import itertools

import pytest
import torch

from cotap_mm.datasets import Visit, VisitSampler, samplers
from cotap_mm.registry import DATA_SAMPLERS


def first(sampler, count):
    return list(itertools.islice(iter(sampler), count))


def test_each_pass_visits_all_in_a_new_order():
    sampler = DATA_SAMPLERS.build(dict(type='VisitSampler', dataset=range(10), seed=5))
    visits = first(sampler, 30)
    rounds = [visits[i : i + 10] for i in (0, 10, 20)]
    for count, visited in enumerate(rounds):
        assert sorted(visit.index for visit in visited) == list(range(10))
        assert {visit.count for visit in visited} == {count}
        assert {visit.seed for visit in visited} == {5}
    assert len({tuple(visit.index for visit in visited) for visited in rounds}) == 3
    assert first(sampler, 30) == visits
    assert first(VisitSampler(range(10), seed=6), 10) != visits[:10]


@pytest.mark.parametrize('start', [0, 3, 7, 10, 25])
def test_starts_anywhere_in_the_permutations_of_pytorch(monkeypatch, start):
    """As 64-bit numbers, in one piece, which earlier versions stored."""
    monkeypatch.setattr(samplers, '_BLOCK', 4)
    sampler = VisitSampler(range(10), seed=3)
    sampler.start = start
    wanted = []
    for count in range(4):
        generator = torch.Generator().manual_seed(3 + count)
        wanted += [(int(i), count) for i in torch.randperm(10, generator=generator)]
    assert [(visit.index, visit.count) for visit in first(sampler, 15)] == wanted[start:][:15]


@pytest.mark.parametrize('size', [2, 1000, 100_000])
def test_short_integers_have_the_same_order(size):
    orders = [
        torch.randperm(size, generator=torch.Generator().manual_seed(1), dtype=dtype)
        for dtype in (torch.int32, torch.int64)
    ]
    assert orders[0].long().equal(orders[1])


def test_one_stream_is_sharded_across_ranks(monkeypatch):
    alone = first(VisitSampler(range(7), seed=0), 21)
    shards = []
    for rank in range(3):
        monkeypatch.setattr(samplers, 'get_dist_info', lambda rank=rank: (rank, 3))
        sampler = VisitSampler(range(7), seed=0)
        assert len(sampler) == 3
        shards.append(first(sampler, 7))
    assert [visit for together in zip(*shards) for visit in together] == alone


def test_a_random_seed_by_default():
    sampler = VisitSampler(range(3))
    assert isinstance(first(sampler, 1)[0], Visit) and sampler.seed >= 0
    with pytest.raises(ValueError, match='empty'):
        VisitSampler([])


def test_large_data_have_an_order_without_memory(monkeypatch):
    assert VisitSampler(range(10_000_000), seed=0).order == 'randperm'
    sampler = VisitSampler(range(10**15), seed=0)  # whose order no memory could hold
    assert sampler.order == 'feistel'
    visits = first(sampler, 5)
    assert len({visit.index for visit in visits}) == 5
    assert all(0 <= visit.index < 10**15 and visit.count == 0 for visit in visits)
    sampler.start = 3 * 10**15 - 2
    assert [visit.count for visit in first(sampler, 4)] == [2, 2, 3, 3]


@pytest.mark.parametrize('start', [0, 3, 10, 13, 29])
@pytest.mark.parametrize('world_size', [1, 2, 3])
def test_the_order_without_memory_starts_anywhere_on_any_number_of_ranks(
    monkeypatch, start, world_size
):
    monkeypatch.setattr(samplers, '_BLOCK', 4)
    whole = first(VisitSampler(range(13), seed=2, order='feistel'), 60)
    for count in range(3):
        visited = whole[13 * count : 13 * count + 13]
        assert sorted(visit.index for visit in visited) == list(range(13))
        assert {visit.count for visit in visited} == {count}
    assert whole[:13] != [(index, 0, seed) for index, _, seed in whole[13:26]]
    shards = []
    for rank in range(world_size):
        monkeypatch.setattr(samplers, 'get_dist_info', lambda rank=rank: (rank, world_size))
        sampler = VisitSampler(range(13), seed=2, order='feistel')
        sampler.start = start
        shards.append(first(sampler, 10))
    together = [visit for step in zip(*shards) for visit in step]
    assert together == whole[start : start + len(together)]


def test_a_resumed_run_keeps_its_order(monkeypatch, log):
    new = VisitSampler(range(10), seed=3, order='feistel')
    old = VisitSampler(range(10), seed=3, order='randperm')
    assert first(new, 10) != first(old, 10)
    monkeypatch.setattr(samplers, '_MOST_STORED', 5)
    sampler = VisitSampler(range(10), seed=3)
    assert first(sampler, 20) == first(new, 20)
    sampler.continue_order('randperm')
    assert first(sampler, 20) == first(old, 20)
    assert "keep the order of this run, 'randperm'" in log.text
    new.continue_order('randperm')  # the option decides, and the log says so
    assert new.order == 'feistel' and "started with order='randperm'" in log.text
    with pytest.raises(ValueError, match="'randperm' or 'feistel', got 'random'"):
        VisitSampler(range(10), order='random')
    with pytest.raises(ValueError, match='seed must be an integer >= 0, or None, got -1'):
        VisitSampler(range(10), seed=-1)
