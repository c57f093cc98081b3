"""All protocols give the same scores on two processes as on one."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import rank_protocols
from tests.helpers.rank_work import on_two_ranks

pytestmark = pytest.mark.dist


def test_gather_rows(tmp_path):
    for found in on_two_ranks(rank_protocols.gathered, tmp_path):
        assert torch.equal(found, torch.full((3, 2), 2.0))


def test_two_ranks_equal_one(tmp_path):
    alone = rank_protocols.scores(0)
    for found in on_two_ranks(rank_protocols.scores, tmp_path):
        torch.testing.assert_close(found['values'], alone['values'], rtol=1e-4, atol=1e-3)
        assert found['linear'] > 70  # batches differ from those of one process
