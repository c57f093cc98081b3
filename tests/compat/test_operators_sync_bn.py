"""MMCV's synchronized batch normalization (type MMSyncBN) equals PyTorch's on a whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.compat.operator_helpers import forward_and_gradients, module, ops


@pytest.mark.parametrize('stats_mode', ['default', 'N'])
def test_sync_bn_of_one_process(stand_in, monkeypatch, stats_mode):
    """MMCV's own code does the communication; its group is 1 process here."""
    stand_in('sync_bn')
    monkeypatch.setattr(module('sync_bn').dist, 'get_world_size', lambda group=None: 1)
    layer = ops.SyncBatchNorm(3, momentum=0.3, group=1, stats_mode=stats_mode)
    own = nn.BatchNorm2d(3, momentum=0.3)
    with torch.no_grad():
        for each in (layer, own):
            each.weight.copy_(torch.tensor([0.5, 1, 2]))
            each.bias.copy_(torch.tensor([1, 0, -1]))
    x = torch.randn(4, 3, 5, 2) * 3 + 1
    (result, (grad,)), (expected, (wanted,)) = (
        forward_and_gradients(each, [x]) for each in (layer, own)
    )
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-5)
    for name in ('weight', 'bias'):
        torch.testing.assert_close(getattr(layer, name).grad, getattr(own, name).grad)
    for name in ('running_mean', 'running_var'):
        torch.testing.assert_close(getattr(layer, name), getattr(own, name))
