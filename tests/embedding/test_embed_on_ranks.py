"""Several ranks share the work of one feature file."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.embedding import embed as module
from cotap_mm.embedding.embed import embed
from tests.embedding.conftest import Colors
from tests.helpers.forked_ranks import FORK, Ranks, on_forked_ranks

pytestmark = [
    pytest.mark.dist,
    pytest.mark.skipif(FORK is None, reason='forks processes'),
]


class Together:
    """Embed on each rank; returns the number of its batches."""

    def __init__(self, photos, out, fails=False):
        self.photos, self.out, self.fails = photos, out, fails

    def __call__(self, rank):
        encoder = Colors()
        encoder.left = 1000
        if self.fails and rank:
            encoder.scale = float('nan')
        found = embed(encoder, self.photos, self.out, size=16, num_workers=0, batch_size=2)
        return torch.tensor([1000 - encoder.left, len(found)])


def test_two_ranks_equal_one(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, '_ROWS', 2)
    assert Together(photos, tmp_path / 'alone.npz')(0).tolist() == [4, 7]
    found = on_forked_ranks(Together(photos, tmp_path / 'f.npz'), tmp_path / 'ranks')
    assert [each.tolist() for each in found] == [[2, 7], [2, 7]]
    assert (tmp_path / 'f.npz').read_bytes() == (tmp_path / 'alone.npz').read_bytes()


def test_a_failure_of_one_rank_aborts_both(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, '_ROWS', 2)
    with Ranks(Together(photos, tmp_path / 'f.npz', fails=True), tmp_path / 'ranks') as ranks:
        assert [ranks.exit_code(rank) for rank in (0, 1)] == [1, 1]
        assert 'rank 1' in ranks.log(0) and 'not finite' in ranks.log(0)
    assert not (tmp_path / 'f.npz').exists()
    assert len(embed(Colors(), photos, tmp_path / 'f.npz', size=16, num_workers=0)) == 7
