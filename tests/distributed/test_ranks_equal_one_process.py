"""Two and four gloo processes train like one process with the whole batch."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.one_process import OneAfterAnother, OnRanks
from tests.helpers.rank_work import on_ranks
from tests.helpers.tiny import LOSSES

pytestmark = pytest.mark.dist


def close(one, other, name):
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-9), (name, (one - other).abs().max())


def rows(queue):
    """Rows in an order that does not depend on their position."""
    return queue[(queue @ torch.arange(1, queue.shape[1] + 1).to(queue)).argsort()]


@pytest.mark.parametrize('world, accumulate', [(2, 1), (4, 1), (2, 2)])
def test_losses_gradients_weights_and_queues(tmp_path, world, accumulate):
    work = OnRanks(world, tuple(LOSSES), steps=4, accumulate=accumulate)
    ranks, alone = on_ranks(work, tmp_path, world), work.alone()
    for step, losses in enumerate(alone['losses']):
        assert set(losses) == {f'loss_{name}' for name in LOSSES}
        for name, value in losses.items():
            mean = torch.stack([rank['losses'][step][name] for rank in ranks]).mean()
            close(mean, value, (step, name))
            assert step == 0 or value > 0, name
    assert len(alone['gradients']) == 4 // accumulate
    for step, gradients in enumerate(alone['gradients']):
        for rank in ranks:
            assert rank['gradients'][step].keys() == gradients.keys()
            for name, gradient in gradients.items():
                close(rank['gradients'][step][name], gradient, (step, name))
    for rank in ranks:
        for name, weight in alone['weights'].items():
            close(rank['weights'][name], weight, name)
    for queue in ('patch_queue', 'cls_queue'):
        close(rows(torch.cat([rank[queue] for rank in ranks])), rows(alone[queue]), queue)


def test_no_parameter_is_unused(tmp_path):
    """DDP would wait for gradients of parameters that no loss trains."""
    works = [
        OnRanks(2, losses, steps=3, accumulate=1)
        for losses in (
            ('patch_cluster', 'patch_ranking'),
            ('cls_cluster',),
            ('patch_ranking', 'cls_neighbor'),
        )
    ]
    ranks = on_ranks(OneAfterAnother(works), tmp_path, 2)
    for work, one, other in zip(works, *ranks):
        for name, weight in work.alone()['weights'].items():
            close(one['weights'][name], weight, name)
            close(other['weights'][name], weight, name)
