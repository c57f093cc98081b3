"""Inputs and references of the tests of MMCV's operators."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch.nn import functional

ops = pytest.importorskip('mmcv.ops')


def module(name):
    """A module of mmcv.ops; some have the name of their function."""
    return importlib.import_module(f'mmcv.ops.{name}')


def forward_and_gradients(function, tensors):
    leaves = [each.detach().clone().requires_grad_(each.is_floating_point()) for each in tensors]
    output = function(*leaves)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * weight).sum().backward()
    return output.detach(), [each.grad for each in leaves]


def assert_same_as_compiled(compiled, stand_in, name, function, tensors):
    """Results and gradients of both; the first two arguments are the fixtures of these names."""
    compiled(name)
    expected, expected_grads = forward_and_gradients(function, tensors)
    stand_in(name)
    result, grads = forward_and_gradients(function, tensors)
    assert result.shape == expected.shape and result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    for grad, expected_grad in zip(grads, expected_grads):
        assert (grad is None) == (expected_grad is None)
        if grad is not None:
            torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-5)


def random_boxes(count, size=20.0):
    corner = torch.rand(count, 2) * size
    return torch.cat([corner, corner + torch.rand(count, 2) * size / 2 + 1], dim=1)


def random_rois(count, images, size=16.0):
    index = torch.randint(0, images, (count, 1)).float()
    return torch.cat([index, random_boxes(count, size) - 2], dim=1)


def value_at(image, y, x):
    """Interpolate one channel at one point as MMCV does, shape (H, W) -> ()."""
    height, width = image.shape
    if y < -1 or y > height or x < -1 or x > width:
        return image.new_zeros(())
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    total = image.new_zeros(())
    for row, col in itertools.product((top, top + 1), (left, left + 1)):
        share = (1 - abs(y - row)) * (1 - abs(x - col))
        if share:
            total = total + share * image[row, col]
    return total


CONVOLUTIONS = [
    dict(kernel=(3, 3), stride=1, padding=1, dilation=1, groups=1, deform_groups=1),
    dict(kernel=(3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, deform_groups=1),
    dict(kernel=(1, 3), stride=1, padding=0, dilation=1, groups=1, deform_groups=4),
    dict(kernel=(3, 3), stride=2, padding=2, dilation=2, groups=2, deform_groups=2),
]


def convolution_inputs(settings, dtype=torch.float32, size=(8, 11), images=2):
    kernel = settings['kernel']
    weight = torch.randn(6, 4 // settings['groups'], *kernel, dtype=dtype)
    blank = torch.zeros(images, 4, *size, dtype=dtype)
    shape = functional.conv2d(
        blank,
        weight,
        None,
        *(settings[name] for name in ('stride', 'padding', 'dilation', 'groups')),
    ).shape[2:]
    taps = settings['deform_groups'] * kernel[0] * kernel[1]
    offset = torch.randn(images, 2 * taps, *shape, dtype=dtype) * 2
    mask = torch.rand(images, taps, *shape, dtype=dtype)
    return torch.randn(images, 4, *size, dtype=dtype), offset, mask, weight


def plain(settings):
    more = [settings[name] for name in ('stride', 'padding', 'dilation', 'groups', 'deform_groups')]
    return lambda x, offset, weight: ops.deform_conv2d(x, offset, weight, *more)


def modulated(settings):
    more = [settings[name] for name in ('stride', 'padding', 'dilation', 'groups', 'deform_groups')]
    return lambda x, offset, mask, weight, bias=None: ops.modulated_deform_conv2d(
        x, offset, mask, weight, bias, *more
    )


SHAPES = torch.tensor([[4, 6], [2, 3]])


def attention_inputs(dtype=torch.float32):
    value = torch.randn(2, 30, 2, 3, dtype=dtype)
    locations = torch.rand(2, 4, 2, 2, 3, 2, dtype=dtype) * 1.2 - 0.1
    weights = torch.rand(2, 4, 2, 2, 3, dtype=dtype)
    return value, locations, weights


def attend(value, locations, weights):
    function = module('multi_scale_deform_attn').MultiScaleDeformableAttnFunction
    return function.apply(value, SHAPES, torch.tensor([0, 24]), locations, weights, 64)
