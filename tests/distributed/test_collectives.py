"""Two gloo processes: collectives agree with one process, and weights stay equal on both."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.rank_work import on_two_ranks, scores, sinkhorn_half, train_three_steps

pytestmark = pytest.mark.dist


def test_sinkhorn_on_two_halves_equals_one_process(tmp_path):
    from cotap_mm.ops import sinkhorn

    halves = on_two_ranks(sinkhorn_half, tmp_path)
    torch.testing.assert_close(torch.cat(halves), sinkhorn(scores(), 0.05), rtol=1e-5, atol=1e-6)


def test_ranks_have_equal_weights_and_separate_template_banks(tmp_path):
    first, second = on_two_ranks(train_three_steps, tmp_path)
    assert not torch.equal(first.pop('bank'), second.pop('bank'))
    for name in first:
        assert torch.equal(first[name], second[name]), name
