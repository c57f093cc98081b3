"""Features are collected without a second copy."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.distributed import collectives
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.growing_rows import GrowingRows
from cotap_mm.evaluation.protocols.dense_retrieval import build_memory
from cotap_mm.planning.trace import MemoryMeter
from tests.helpers.pixel_scenes import PixelEncoder, scenes


@pytest.mark.parametrize('expected', [0, 1, 5, 9, 100])
def test_rows_are_kept_in_order_with_any_expectation(expected):
    rows, parts = GrowingRows(expected), [torch.rand(n, 3) for n in (2, 0, 4, 3)]
    for part in parts:
        rows.append(part)
    assert torch.equal(rows.rows(), torch.cat(parts))


def test_without_rows_there_is_no_shape():
    with pytest.raises(ValueError, match='needs at least one append'):
        GrowingRows(3).rows()
    empty = GrowingRows(0)
    empty.append(torch.zeros(0, 7))
    assert empty.rows().shape == (0, 7)


def wide(color):
    """Features of 999 channels, so that the rest of the memory does not count."""
    return color.repeat(1, 333, 1, 1)


@pytest.mark.parametrize('memory_size', [None, 600])
def test_the_memory_has_no_second_copy(memory_size):
    images = LabeledSet(scenes(60), 3, batch_size=2)
    with MemoryMeter() as meter:
        bank, shares = build_memory(PixelEncoder(wide), images, memory_size)
    assert len(bank) == len(shares) == (memory_size or 60 * 16)
    size = bank.numel() * bank.element_size()
    # The features of a batch of 2 of 60 images are added, several times.
    assert size < meter.peak.of(1) < 1.5 * size


def test_gathering_has_no_second_copy(monkeypatch):
    rows, sizes = torch.rand(40, 25), [10, 40, 50]
    monkeypatch.setattr(collectives, 'world_size', lambda: 3)
    monkeypatch.setattr(collectives, 'rank', lambda: 1)
    sources = []

    def all_reduce(counts):
        assert counts.tolist() == [0, 40, 0]
        return counts.copy_(torch.tensor(sizes))

    def broadcast(part, source):
        sources.append((len(part), source))
        if source != 1:
            part.fill_(source)
        return part

    monkeypatch.setattr(collectives, 'all_reduce_sum', all_reduce)
    monkeypatch.setattr(collectives, 'broadcast', broadcast)
    with MemoryMeter([rows]) as meter:
        found = collectives.gather_rows(rows)
    assert sources == list(zip(sizes, range(3)))
    assert torch.equal(found[10:50], rows) and found[50:].eq(2).all() and found[:10].eq(0).all()
    assert meter.peak.of(1) < 1.05 * found.numel() * 4
