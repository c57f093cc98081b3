"""MMCV's synchronized batch normalization (type MMSyncBN) equals PyTorch's on a whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cotap_mm.compat.mmcv_ops import extension
from tests.compat.operator_helpers import forward_and_gradients, module, ops
from tests.helpers.rank_work import on_two_ranks


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


def whole_batch():
    """Four images whose means and variances differ, and a gradient of the output."""
    generator = torch.Generator().manual_seed(5)
    spread = torch.tensor([0.5, 1, 2, 4]).view(4, 1, 1, 1)
    shift = torch.tensor([-3.0, 0, 1, 5]).view(4, 1, 1, 1)
    images = torch.randn(4, 3, 5, 2, generator=generator) * spread + shift
    return images, torch.randn(4, 3, 5, 2, generator=generator)


def two_steps(layer, images, top_grad):
    """Outputs, gradients and running statistics of two steps, the second on doubled images."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1, 2]))
        layer.bias.copy_(torch.tensor([1.0, 0, -1]))
    steps = []
    for factor in (1, 2):
        layer.zero_grad()
        leaf = (factor * images).requires_grad_()
        output = layer(leaf)
        (output * top_grad).sum().backward()
        found = dict(output=output.detach(), input=leaf.grad)
        found.update({name: getattr(layer, name).grad.clone() for name in ('weight', 'bias')})
        found.update({name: value.clone() for name, value in layer.named_buffers()})
        steps.append(found)
    return steps


class NormalizedPart:
    """Two steps of a rank on its part of the batch.

    Args:
        stats_mode (str): How MMCV averages statistics over ranks.
        sizes (list[int]): Images of each rank.
    """

    def __init__(self, stats_mode, sizes):
        self.stats_mode, self.sizes = stats_mode, sizes

    def __call__(self, rank):
        from mmcv.cnn import build_norm_layer

        module('sync_bn').ext_module = extension  # this process ends after the test
        settings = dict(type='MMSyncBN', momentum=0.3, stats_mode=self.stats_mode)
        layer = build_norm_layer(settings, 3)[1]
        return two_steps(layer, *(each.split(self.sizes)[rank] for each in whole_batch()))


def assert_equal_whole_batch(ranks, names):
    """Compare names of the steps of both ranks with one process that has all images."""
    for first, second, whole in zip(
        *ranks, two_steps(nn.BatchNorm2d(3, momentum=0.3), *whole_batch())
    ):
        for name in names:
            if name in ('output', 'input'):
                results = [torch.cat([first[name], second[name]])]
            elif name in ('weight', 'bias'):  # MMCV averages them over ranks, as DDP does
                results = [2 * first[name], 2 * second[name]]
            else:
                results = [first[name], second[name]]
            for result in results:
                torch.testing.assert_close(result, whole[name], rtol=0, atol=1e-5)


@pytest.mark.dist
@pytest.mark.parametrize('stats_mode', ['default', 'N'])
def test_halves_of_a_batch_equal_one_process(tmp_path, stats_mode):
    ranks = on_two_ranks(NormalizedPart(stats_mode, [2, 2]), tmp_path)
    names = list(ranks[0][0])
    assert {'output', 'input', 'weight', 'bias', 'running_mean', 'running_var'} < set(names)
    assert_equal_whole_batch(ranks, names)


@pytest.mark.dist
@pytest.mark.parametrize('sizes', [[3, 1], [0, 4]])
def test_unequal_parts_of_a_batch(tmp_path, sizes):
    """The rest equals one process only if all ranks have the same number of images.

    MMCV computes the gradient of the input and the running variance with the number of images of
    the rank.
    """
    ranks = on_two_ranks(NormalizedPart('N', sizes), tmp_path)
    assert_equal_whole_batch(ranks, ['output', 'weight', 'bias', 'running_mean'])
