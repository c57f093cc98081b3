from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from cotap_mm import progress
from cotap_mm.evaluation import batches as module
from cotap_mm.evaluation.batches import iter_batches, progress_bars, rank_indices, with_progress
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from tests.helpers.pixel_scenes import scenes


def test_batch_has_one_image_size_and_keeps_the_order():
    mixed = scenes(3) + scenes(2, grid=6) + scenes(1)
    found = list(iter_batches(LabeledSet(mixed, 3, batch_size=2)))
    assert [each.indices for each in found] == [[0, 1], [2], [3, 4], [5]]
    assert [tuple(each.images.shape[2:]) for each in found] == [(16, 16)] * 2 + [(24, 24), (16, 16)]
    assert all(
        torch.equal(label, mixed[i]['label'])
        for each in found
        for i, label in zip(each.indices, each.labels)
    )
    resized = list(iter_batches(LabeledSet(mixed, 3, (8, 12), 4)))
    assert [tuple(each.images.shape) for each in resized] == [(4, 3, 8, 12), (2, 3, 8, 12)]
    with pytest.raises(ValueError, match='batch_size must be an integer >= 1, got 0'):
        LabeledSet(mixed, 3, batch_size=0)


def test_images_are_sharded_across_ranks(monkeypatch):
    shares = []
    for rank in range(3):
        monkeypatch.setattr(module, 'rank', lambda rank=rank: rank)
        monkeypatch.setattr(module, 'world_size', lambda: 3)
        shares.append(list(rank_indices(8)))
    assert sorted(sum(shares, [])) == list(range(8))
    assert {len(share) for share in shares} == {2, 3}


def test_progress_bars_only_in_a_terminal_on_rank_0(monkeypatch):
    def shown(terminal=True, rank=0, bars=True):
        screen = io.StringIO()
        monkeypatch.setattr(progress, 'rank', lambda: rank)
        monkeypatch.setattr(
            progress,
            'Console',
            lambda stderr: Console(file=screen, force_terminal=terminal, width=80),
        )
        if bars:
            with progress_bars():
                assert list(with_progress([3, 1, 2], 'counting')) == [3, 1, 2]
        else:
            assert list(with_progress([3, 1, 2], 'counting')) == [3, 1, 2]
        return screen.getvalue()

    assert 'counting' in shown() and '3 of 3' in shown()
    assert shown(terminal=False) == shown(rank=1) == shown(bars=False) == ''
