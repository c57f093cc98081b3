"""Layers of regions: as the compiled operators, or as slow references."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.compat.operator_helpers import (
    assert_same_as_compiled,
    forward_and_gradients,
    ops,
    random_boxes,
    random_rois,
    value_at,
)


@pytest.mark.parametrize('count', [0, 5])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('size', [3, (2, 5)])
def test_roi_align(compiled, stand_in, count, aligned, sampling_ratio, size):
    rois = random_rois(count, 2)
    assert_same_as_compiled(
        compiled,
        stand_in,
        'roi_align',
        lambda x: ops.roi_align(x, rois, size, 0.7, sampling_ratio, 'avg', aligned),
        [torch.rand(2, 3, 9, 14)],
    )


def test_roi_align_by_maximum_is_refused(stand_in):
    stand_in('roi_align')
    with pytest.raises(NotImplementedError, match="use pool_mode='avg'"):
        ops.roi_align(torch.rand(1, 1, 4, 4), random_rois(1, 1), 2, 1.0, 0, 'max', True)


def pool_by_hand(features, rois, size, scale):
    """Loops over bins; rows and columns of a bin are rounded outward."""
    height, width = features.shape[2:]
    result = torch.zeros(len(rois), features.size(1), *size, dtype=features.dtype)
    for r, (image, *corners) in enumerate(rois.tolist()):
        x1, y1 = corners[0] * scale, corners[1] * scale
        w, h = (corners[2] + 1) * scale - x1, (corners[3] + 1) * scale - y1
        if w <= 0 or h <= 0:
            continue
        for i, j in itertools.product(*map(range, size)):
            top = min(max(math.floor(y1 + i * h / size[0]), 0), height)
            bottom = min(max(math.ceil(y1 + (i + 1) * h / size[0]), 0), height)
            left = min(max(math.floor(x1 + j * w / size[1]), 0), width)
            right = min(max(math.ceil(x1 + (j + 1) * w / size[1]), 0), width)
            part = features[int(image), :, top:bottom, left:right]
            if part.numel():
                result[r, :, i, j] = part.flatten(1).max(dim=1).values
    return result


@pytest.mark.parametrize('size', [(3, 3), (2, 5)])
def test_roi_pool(stand_in, size):
    stand_in('roi_pool')
    outside = torch.tensor([[1.0, -30, -30, -20, -20], [0.0, 5, 5, 2, 2]])
    rois = torch.cat([random_rois(5, 2), outside])
    features = torch.randn(2, 3, 9, 14)
    result, (grad,) = forward_and_gradients(lambda x: ops.roi_pool(x, rois, size, 0.7), [features])
    expected, (wanted,) = forward_and_gradients(
        lambda x: pool_by_hand(x, rois, size, 0.7), [features]
    )
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    torch.testing.assert_close(grad, wanted)
    assert ops.roi_pool(features, rois[:0], size, 0.7).shape == (0, 3, *size)


@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_deform_roi_pool(stand_in, sampling_ratio):
    stand_in('deform_roi_pool')
    features, rois = torch.rand(2, 2, 7, 9), random_rois(3, 2, 9.0)
    offset = torch.randn(3, 2, 2, 3)

    def by_hand(features):
        result = torch.zeros(3, 2, 2, 3, dtype=features.dtype)
        for r, (image, *corners) in enumerate(rois.tolist()):
            x1, y1, x2, y2 = (each * 0.7 - 0.5 for each in corners)
            w, h = x2 - x1, y2 - y1
            rows = sampling_ratio or math.ceil(h / 2)
            cols = sampling_ratio or math.ceil(w / 3)
            for c, i, j in itertools.product(range(2), range(2), range(3)):
                shift_x, shift_y = 0.1 * w * offset[r, 0, i, j], 0.1 * h * offset[r, 1, i, j]
                values = [
                    value_at(
                        features[int(image), c],
                        float(y1 + shift_y + (i + (k + 0.5) / rows) * h / 2),
                        float(x1 + shift_x + (j + (m + 0.5) / cols) * w / 3),
                    )
                    for k, m in itertools.product(range(rows), range(cols))
                ]
                result[r, c, i, j] = sum(values) / len(values)
        return result

    def pooled(features, shift=offset):
        return ops.deform_roi_pool(features, rois, shift, (2, 3), 0.7, sampling_ratio, 0.1)

    result, (grad,) = forward_and_gradients(pooled, [features])
    expected, (wanted,) = forward_and_gradients(by_hand, [features])
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-5)
    stand_in('roi_align')
    aligned = ops.roi_align(features, rois, (2, 3), 0.7, sampling_ratio, 'avg', True)
    torch.testing.assert_close(pooled(features, None), aligned)
    assert ops.deform_roi_pool(features, rois[:0], None, 2).shape == (0, 2, 2, 2)


@pytest.mark.parametrize('pool_size', [1, 4])
def test_border_align(stand_in, pool_size):
    stand_in('border_align')
    features, boxes = torch.randn(2, 8, 6, 9), random_boxes(10, 8.0).view(2, 5, 4) - 1

    def by_hand(features):
        result = torch.zeros(2, 2, 5, 4, dtype=features.dtype)
        for b, c, k, border in itertools.product(range(2), range(2), range(5), range(4)):
            x1, y1, x2, y2 = boxes[b, k].tolist()
            w, h = (x2 - x1) / pool_size, (y2 - y1) / pool_size
            x, y = (x1, y1) if border < 2 else (x2, y2)
            move_x, move_y = ((w, 0), (0, h), (-w, 0), (0, -h))[border]
            values = [
                value_at(features[b, border * 2 + c], y + i * move_y, x + i * move_x)
                for i in range(pool_size + 1)
            ]
            result[b, c, k, border] = max(values)
        return result

    result, (grad,) = forward_and_gradients(
        lambda x: ops.border_align(x, boxes, pool_size), [features]
    )
    expected, (wanted,) = forward_and_gradients(by_hand, [features])
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-5)
