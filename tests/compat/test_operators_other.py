"""Masked convolution, CARAFE and PSA masks: as compiled operators, or as slow references."""

from __future__ import annotations

import itertools

import pytest
import torch

from cotap_mm.compat.mmcv_ops import extension
from tests.compat.operator_helpers import (
    assert_same_as_compiled,
    forward_and_gradients,
    module,
    ops,
)


def test_masked_conv(stand_in):
    stand_in('masked_conv')
    layer = ops.MaskedConv2d(3, 4, (3, 5), padding=(1, 2))
    x = torch.randn(1, 3, 6, 8)
    mask = torch.rand(1, 6, 8) > 0.5
    with torch.no_grad():
        expected = layer(x) * mask
        torch.testing.assert_close(layer(x, mask.float()), expected, rtol=1e-5, atol=1e-5)
        assert not layer(x, torch.zeros(1, 6, 8)).any()


def carafe_by_hand(features, masks, kernel, groups, scale):
    batch, channels, height, width = features.shape
    result = torch.zeros(batch, channels, height * scale, width * scale, dtype=features.dtype)
    for b, c, y, x in itertools.product(*map(range, result.shape)):
        group = c // (channels // groups)
        for i, j in itertools.product(range(kernel), range(kernel)):
            row, col = y // scale + i - kernel // 2, x // scale + j - kernel // 2
            if 0 <= row < height and 0 <= col < width:
                weight = masks[b, (group * kernel + i) * kernel + j, y, x]
                result[b, c, y, x] += weight * features[b, c, row, col]
    return result


@pytest.mark.parametrize('kernel, groups, scale', [(3, 1, 2), (1, 2, 1), (3, 2, 3), (5, 1, 2)])
def test_carafe(stand_in, kernel, groups, scale):
    stand_in('carafe')
    features = torch.randn(2, 4, 2, 3)
    masks = torch.randn(2, groups * kernel**2, 2 * scale, 3 * scale)
    result, grads = forward_and_gradients(
        lambda x, m: ops.carafe(x, m, kernel, groups, scale), [features, masks]
    )
    expected, wanted = forward_and_gradients(
        lambda x, m: carafe_by_hand(x, m, kernel, groups, scale), [features, masks]
    )
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    for grad, want in zip(grads, wanted):
        torch.testing.assert_close(grad, want, rtol=1e-5, atol=1e-5)
    naive = ops.carafe_naive(features, masks, kernel, groups, scale)
    torch.testing.assert_close(naive, expected, rtol=1e-5, atol=1e-5)
    top_grad = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    naive_grads = [torch.zeros_like(features), torch.zeros_like(masks)]
    extension.carafe_naive_backward(
        top_grad, features, masks, *naive_grads, kernel, groups, scale_factor=scale
    )
    for grad, want in zip(naive_grads, wanted):
        torch.testing.assert_close(grad, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('psa_type', [0, 1])
@pytest.mark.parametrize('mask_size', [(3, 3), (7, 5), (4, 6)])
def test_psamask(compiled, stand_in, psa_type, mask_size):
    assert_same_as_compiled(
        compiled,
        stand_in,
        'psa_mask',
        lambda x: module('psa_mask').psa_mask(x, psa_type, mask_size),
        [torch.randn(2, mask_size[0] * mask_size[1], 4, 3)],
    )


@pytest.mark.parametrize('psa_type', [0, 1])
def test_psamask_by_hand(stand_in, psa_type):
    stand_in('psa_mask')
    masks = torch.randn(2, 3 * 5, 4, 3)
    expected = torch.zeros(2, 12, 4, 3)
    for h, w, i, j in itertools.product(range(4), range(3), range(3), range(5)):
        y, x = h + i - 1, w + j - 2
        if 0 <= y < 4 and 0 <= x < 3:
            value = masks[:, i * 5 + j, h, w]
            if psa_type == 0:
                expected[:, y * 3 + x, h, w] = value
            else:
                expected[:, h * 3 + w, y, x] = value
    result = module('psa_mask').psa_mask(masks, psa_type, (3, 5))
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
