"""Work of the gloo processes that normalize parts of a batch with MMSyncBN."""

from __future__ import annotations

import importlib

import torch
from mmcv.cnn import build_norm_layer

from cotap_mm.compat.mmcv_ops import extension


def whole_batch():
    """A batch whose images have different means and variances, and weights of its loss."""
    generator = torch.Generator().manual_seed(5)
    spread, shift = torch.tensor([0.5, 1, 2, 4]), torch.tensor([-3.0, 0, 1, 5])
    images = torch.randn(4, 3, 5, 2, generator=generator)
    weights = torch.randn(4, 3, 5, 2, generator=generator)
    return images * spread.view(4, 1, 1, 1) + shift.view(4, 1, 1, 1), weights


def set_affine(layer):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1, 2]))
        layer.bias.copy_(torch.tensor([1.0, 0, -1]))


def two_steps(layer, images, weights):
    """Outputs, gradients and running statistics of two steps; the second batch is a multiple."""
    found = {}
    for step in (1, 2):
        layer.zero_grad()
        leaf = (images * step).requires_grad_()
        output = layer(leaf)
        (output * weights).sum().backward()
        found[f'output {step}'], found[f'input {step}'] = output.detach(), leaf.grad
        for name in ('weight', 'bias'):
            found[f'{name} {step}'] = getattr(layer, name).grad.clone()
        for name in ('running_mean', 'running_var'):
            found[f'{name} {step}'] = getattr(layer, name).clone()
    return found


class Normalized:
    """Two steps of a rank on its part of the batch.

    Args:
        stats_mode (str): How MMCV averages statistics over ranks.
        sizes (list[int]): Images of each rank.
    """

    def __init__(self, stats_mode, sizes):
        self.stats_mode, self.sizes = stats_mode, sizes

    def __call__(self, rank):
        importlib.import_module('mmcv.ops.sync_bn').ext_module = extension
        config = dict(type='MMSyncBN', momentum=0.3, stats_mode=self.stats_mode)
        layer = build_norm_layer(config, 3)[1]
        set_affine(layer)
        return two_steps(layer, *(each.split(self.sizes)[rank] for each in whole_batch()))
