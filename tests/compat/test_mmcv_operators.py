"""The stand-in of mmcv._ext: as the compiled operators, or as a slow reference."""

from __future__ import annotations

import importlib
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

ops = pytest.importorskip('mmcv.ops')

from cotap_mm.compat.mmcv_ops import extension  # noqa: E402

COMPILED = not hasattr(importlib.import_module('mmcv._ext'), '__all__')
needs_compiled = pytest.mark.skipif(not COMPILED, reason='mmcv-lite has no compiled operators')


def module(name):
    """A module of mmcv.ops; some have the name of their function."""
    return importlib.import_module(f'mmcv.ops.{name}')


@pytest.fixture
def stand_in(monkeypatch):
    """Let a module of mmcv.ops, or several, call the stand-in."""

    def use(*names):
        for name in names:
            monkeypatch.setattr(module(name), 'ext_module', extension)

    return use


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def forward_and_gradients(function, tensors):
    leaves = [each.detach().clone().requires_grad_(each.is_floating_point()) for each in tensors]
    output = function(*leaves)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * weight).sum().backward()
    return output.detach(), [each.grad for each in leaves]


def assert_same_as_compiled(use, name, function, tensors):
    module(name).ext_module = importlib.import_module('mmcv._ext')
    expected, expected_grads = forward_and_gradients(function, tensors)
    use(name)
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


# Boxes


@needs_compiled
@pytest.mark.parametrize('count, ties', [(0, False), (1, False), (60, False), (60, True)])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.6])
def test_nms(stand_in, count, ties, offset, threshold):
    """Equal scores have the order of ``torch.sort``, which is not stable."""
    boxes, scores = random_boxes(count), torch.rand(count)
    if ties:
        scores = (scores * 4).round() / 4
    expected = ops.nms(boxes, scores, threshold, offset)
    stand_in('nms')
    for result, wanted in zip(ops.nms(boxes, scores, threshold, offset), expected):
        assert torch.equal(result, wanted)


@needs_compiled
def test_nms_keeps_an_overlap_of_exactly_the_threshold(stand_in):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])
    scores = torch.tensor([0.9, 0.8])
    expected = ops.nms(boxes, scores, 0.6)[1].tolist()
    stand_in('nms')
    assert ops.nms(boxes, scores, 0.6)[1].tolist() == expected == [0, 1]


@pytest.mark.parametrize('dtypes', [(torch.float16, torch.float32), (torch.float64,) * 2])
def test_nms_of_other_types(dtypes):
    boxes = torch.tensor([[0.0, 0, 8, 8], [1, 1, 8, 8], [4, 4, 12, 12]], dtype=dtypes[0])
    scores = torch.tensor([0.5, 0.75, 0.875], dtype=dtypes[1])
    assert extension.nms(boxes, scores, iou_threshold=0.5, offset=0).tolist() == [2, 1]


@needs_compiled
def test_batched_nms(stand_in):
    boxes, scores, labels = random_boxes(80), torch.rand(80), torch.randint(0, 3, (80,))
    configs = [
        dict(type=kind, iou_threshold=0.5, split_thr=split)
        for kind, split in itertools.product(['nms', 'soft_nms'], [10000, 10])
    ]
    expected = [ops.batched_nms(boxes, scores, labels, each) for each in configs]
    stand_in('nms')
    for config, wanted in zip(configs, expected):
        result = ops.batched_nms(boxes, scores, labels, config)
        torch.testing.assert_close(result[0], wanted[0])
        assert torch.equal(result[1], wanted[1])


@needs_compiled
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('count, ties', [(0, False), (1, False), (50, False), (50, True)])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('least', [0.001, 0.3])
def test_soft_nms(stand_in, method, count, ties, offset, least):
    boxes, scores = random_boxes(count), torch.rand(count)
    if ties:
        scores = (scores * 4).round() / 4
        boxes = boxes.round()
    arguments = dict(sigma=0.4, min_score=least, method=method, offset=offset)
    expected = ops.soft_nms(boxes, scores, 0.3, **arguments)
    stand_in('nms')
    result = ops.soft_nms(boxes, scores, 0.3, **arguments)
    assert torch.equal(result[1], expected[1])
    torch.testing.assert_close(result[0], expected[0], rtol=1e-5, atol=1e-6)


@needs_compiled
@pytest.mark.parametrize('threshold', [0.2, 0.6])
@pytest.mark.parametrize('ties', [True, False])
def test_nms_match(stand_in, threshold, ties):
    scores = (torch.rand(60, 1) * 4).round() / 4 if ties else torch.rand(60, 1)
    dets = torch.cat([random_boxes(60), scores], dim=1)
    expected = ops.nms_match(dets, threshold)
    stand_in('nms')
    result = ops.nms_match(dets, threshold)
    assert [each.tolist() for each in result] == [each.tolist() for each in expected]
    assert ops.nms_match(dets[:0], threshold) == []


@needs_compiled
@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('offset', [0, 1])
def test_bbox_overlaps(stand_in, mode, aligned, offset):
    first, second = random_boxes(12), random_boxes(12 if aligned else 7)
    expected = ops.bbox_overlaps(first, second, mode, aligned, offset)
    stand_in('bbox')
    result = ops.bbox_overlaps(first, second, mode, aligned, offset)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=0)


def iou(first, second, offset=0):
    """Intersection over union of two boxes, which are lists."""
    w = min(first[2], second[2]) - max(first[0], second[0]) + offset
    h = min(first[3], second[3]) - max(first[1], second[1]) + offset
    shared = max(w, 0) * max(h, 0)
    areas = [(b[2] - b[0] + offset) * (b[3] - b[1] + offset) for b in (first, second)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize('offset', [0, 1])
def test_suppression_by_hand(stand_in, offset):
    """Also without compiled operators."""
    stand_in('nms', 'bbox')
    boxes, scores = random_boxes(40), torch.rand(40)
    rows = boxes.tolist()
    groups, left = [], scores.argsort(descending=True).tolist()
    while left:
        same = [i for i in left if i == left[0] or iou(rows[left[0]], rows[i], offset) > 0.3]
        groups.append(same)
        left = [i for i in left if i not in same]
    kept = ops.nms(boxes, scores, 0.3, offset)[1].tolist()
    assert kept == [group[0] for group in groups] and 1 < len(kept) < 40
    naive = ops.soft_nms(boxes, scores, 0.3, method='naive', min_score=1e-6, offset=offset)
    assert naive[1].tolist() == kept
    if not offset:
        matched = ops.nms_match(torch.cat([boxes, scores[:, None]], dim=1), 0.3)
        assert [each.tolist() for each in matched] == groups
    expected = torch.tensor([[iou(a, b, offset) for b in rows] for a in rows])
    result = ops.bbox_overlaps(boxes, boxes, offset=offset)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('method', ['linear', 'gaussian'])
def test_soft_nms_by_hand(stand_in, method):
    stand_in('nms')
    boxes, scores = random_boxes(30), torch.rand(30)
    rows, left, kept = boxes.tolist(), dict(enumerate(scores.tolist())), {}
    while left:
        best = max(left, key=left.get)
        kept[best] = left.pop(best)
        for other in list(left):
            overlap = iou(rows[best], rows[other])
            if method == 'gaussian':
                left[other] *= math.exp(-overlap * overlap / 0.4)
            elif overlap >= 0.3:
                left[other] *= 1 - overlap
            if left[other] < 0.1:
                del left[other]
    dets, indices = ops.soft_nms(boxes, scores, 0.3, 0.4, 0.1, method)
    assert indices.tolist() == list(kept) and len(kept) < 30
    torch.testing.assert_close(dets[:, 4], torch.tensor(list(kept.values())))
    torch.testing.assert_close(dets[:, :4], boxes[indices])


# Regions


def random_rois(count, images, size=16.0):
    index = torch.randint(0, images, (count, 1)).float()
    return torch.cat([index, random_boxes(count, size) - 2], dim=1)


@needs_compiled
@pytest.mark.parametrize('count', [0, 5])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('size', [3, (2, 5)])
def test_roi_align(stand_in, count, aligned, sampling_ratio, size):
    rois = random_rois(count, 2)
    assert_same_as_compiled(
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


# Deformable layers

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


@needs_compiled
@pytest.mark.parametrize('settings', CONVOLUTIONS)
def test_deform_conv(stand_in, settings):
    x, offset, _, weight = convolution_inputs(settings)
    assert_same_as_compiled(stand_in, 'deform_conv', plain(settings), [x, offset, weight])


@needs_compiled
@pytest.mark.parametrize('settings', CONVOLUTIONS)
@pytest.mark.parametrize('bias', [True, False])
def test_modulated_deform_conv(stand_in, settings, bias):
    tensors = [*convolution_inputs(settings), *([torch.randn(6)] if bias else [])]
    assert_same_as_compiled(stand_in, 'modulated_deform_conv', modulated(settings), tensors)


@needs_compiled
@pytest.mark.parametrize('settings', CONVOLUTIONS)
def test_gradients_at_whole_pixels(stand_in, settings):
    """Offsets are 0 at first, so that samples are on pixels, and derivatives one-sided."""
    x, offset, mask, weight = convolution_inputs(settings)
    for whole in (torch.zeros_like(offset), offset.round()):
        inputs = [x, whole, weight]
        assert_same_as_compiled(stand_in, 'deform_conv', plain(settings), inputs)
        inputs = [x, whole, mask, weight]
        assert_same_as_compiled(stand_in, 'modulated_deform_conv', modulated(settings), inputs)


@pytest.mark.parametrize('settings', CONVOLUTIONS)
def test_deformable_convolutions_with_constant_offsets(stand_in, settings):
    """They are convolutions of a shifted image; a mask of 0.5 halves them."""
    stand_in('deform_conv', 'modulated_deform_conv')
    x, offset, mask, weight = convolution_inputs(settings, size=(17, 20))
    offset[:, 0::2], offset[:, 1::2] = 1, -2  # down and left
    shifted = functional.pad(x, (2, -2, -1, 1))
    names = ('stride', 'padding', 'dilation', 'groups')
    expected = functional.conv2d(shifted, weight, None, *(settings[name] for name in names))
    inside = (..., slice(3, -3), slice(3, -3))  # the padding is not shifted
    bias = torch.randn(6)
    result = plain(settings)(x, offset, weight)
    assert result[inside].numel()
    torch.testing.assert_close(result[inside], expected[inside], rtol=1e-4, atol=1e-4)
    result = modulated(settings)(x, offset, torch.full_like(mask, 0.5), weight, bias)
    torch.testing.assert_close(
        result[inside], (expected / 2 + bias[:, None, None])[inside], rtol=1e-4, atol=1e-4
    )


def test_wrong_shapes_of_convolutions_are_reported(stand_in):
    stand_in('deform_conv')
    settings = CONVOLUTIONS[0]
    x, offset, _, weight = convolution_inputs(settings)
    with pytest.raises(RuntimeError, match='needs 8 input channels, got 4'):
        plain({**settings, 'groups': 2})(x, offset, weight)
    with pytest.raises(RuntimeError, match='needs offsets of 36 channels, got 18'):
        plain({**settings, 'deform_groups': 2})(x, offset, weight)


SHAPES = torch.tensor([[4, 6], [2, 3]])


def attention_inputs(dtype=torch.float32):
    value = torch.randn(2, 30, 2, 3, dtype=dtype)
    locations = torch.rand(2, 4, 2, 2, 3, 2, dtype=dtype) * 1.2 - 0.1
    weights = torch.rand(2, 4, 2, 2, 3, dtype=dtype)
    return value, locations, weights


def attend(value, locations, weights):
    function = module('multi_scale_deform_attn').MultiScaleDeformableAttnFunction
    return function.apply(value, SHAPES, torch.tensor([0, 24]), locations, weights, 64)


def test_deformable_attention(stand_in):
    """Outside of the image values are 0, between its border and the first pixels they fade."""
    stand_in('multi_scale_deform_attn')
    value, locations, weights = attention_inputs()
    expected = torch.zeros(2, 4, 2, 3)
    start = 0
    for level, (height, width) in enumerate(SHAPES.tolist()):
        image = functional.pad(
            value[:, start : start + height * width].view(2, height, width, 2, 3),
            (0, 0, 0, 0, 2, 2, 2, 2),
        )
        start += height * width
        for b, q, h, p in itertools.product(range(2), range(4), range(2), range(3)):
            x, y = locations[b, q, h, level, p].tolist()
            y, x = y * height - 0.5 + 2, x * width - 0.5 + 2
            for c in range(3):
                seen = value_at(image[b, :, :, h, c], y, x)
                expected[b, q, h, c] += weights[b, q, h, level, p] * seen
    result = attend(value, locations, weights)
    torch.testing.assert_close(result, expected.flatten(2), rtol=1e-5, atol=1e-5)


# Losses


def focal_by_hand(logits, target, gamma, alpha, weight):
    total = torch.zeros_like(logits)
    for i, j in itertools.product(range(logits.size(0)), range(logits.size(1))):
        p = logits[i, j].sigmoid()
        label = int(target[i])
        if label == j:
            total[i, j] = -alpha * (1 - p) ** gamma * p.log()
        else:
            total[i, j] = -(1 - alpha) * p**gamma * (1 - p).log()
        if weight is not None and label < len(weight):
            total[i, j] = total[i, j] * weight[label]
    return total


@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (1.5, 0.6)])
def test_sigmoid_focal_loss(stand_in, weighted, gamma, alpha):
    stand_in('focal_loss')
    logits, target = torch.randn(6, 4) * 3, torch.tensor([0, 1, 2, 3, 4, 4])  # 4: background
    weight = torch.rand(4) if weighted else None
    result, (grad,) = forward_and_gradients(
        lambda x: ops.sigmoid_focal_loss(x, target, gamma, alpha, weight, 'none'), [logits]
    )
    expected, (wanted,) = forward_and_gradients(
        lambda x: focal_by_hand(x, target, gamma, alpha, weight), [logits]
    )
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-6)
    assert ops.sigmoid_focal_loss(logits[:0], target[:0], gamma, alpha, weight, 'sum') == 0


def test_focal_losses_of_extreme_logits_are_finite(stand_in):
    stand_in('focal_loss')
    logits, target = torch.tensor([[200.0, -200.0], [-200.0, 200.0]]), torch.tensor([1, 1])
    for loss in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        result, (grad,) = forward_and_gradients(
            lambda x, loss=loss: loss(x, target, 2.0, 0.25, None, 'none'), [logits]
        )
        assert result.isfinite().all() and grad.isfinite().all() and result.max() > 10


@pytest.mark.parametrize('weighted', [True, False])
def test_softmax_focal_loss(stand_in, weighted):
    stand_in('focal_loss')
    logits, target = torch.randn(6, 4) * 3, torch.tensor([0, 1, 2, 3, 1, 2])
    weight = torch.rand(4) if weighted else None

    def by_hand(x):
        p = x.softmax(dim=1)[range(6), target]
        loss = -0.25 * (1 - p) ** 2 * p.log()
        return loss if weight is None else loss * weight[target]

    def summed(loss):
        return lambda x: loss(x).sum()[None]

    def stand(x):
        return ops.softmax_focal_loss(x, target, 2.0, 0.25, weight, 'none')

    result, expected = stand(logits), by_hand(logits)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    _, (grad,) = forward_and_gradients(
        lambda x: ops.softmax_focal_loss(x, target, 2.0, 0.25, weight, 'sum')[None], [logits]
    )
    _, (wanted,) = forward_and_gradients(summed(by_hand), [logits])
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-6)


def test_softmax_focal_loss_ignores_negative_labels(stand_in):
    stand_in('focal_loss')
    logits = torch.randn(2, 3)
    result, (grad,) = forward_and_gradients(
        lambda x: ops.softmax_focal_loss(x, torch.tensor([-1, 2]), 2.0, 0.25, None, 'sum')[None],
        [logits],
    )
    one = ops.softmax_focal_loss(logits[1:], torch.tensor([2]), 2.0, 0.25, None, 'sum')
    torch.testing.assert_close(result[0], one)
    assert not grad[0].any() and grad[1].any()


# Other layers


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


@needs_compiled
@pytest.mark.parametrize('psa_type', [0, 1])
@pytest.mark.parametrize('mask_size', [(3, 3), (7, 5), (4, 6)])
def test_psamask(stand_in, psa_type, mask_size):
    assert_same_as_compiled(
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


# All


def gradcheck_cases():
    """Name of the module, function of float64 tensors, and the tensors."""
    torch.manual_seed(1)
    double = torch.float64
    features, rois = torch.randn(2, 4, 5, 6, dtype=double), random_rois(3, 2, 6.0).double()
    inner = rois + torch.tensor([0, 2, 2, 2, 2])
    target = torch.tensor([0, 2, 3])
    x, offset, mask, weight = convolution_inputs(CONVOLUTIONS[1], double, (4, 5), 1)
    bias = torch.randn(6, dtype=double)
    shift = torch.rand(3, 2, 2, 2, dtype=double)
    logits = torch.randn(3, 3, dtype=double)
    kernels = torch.randn(2, 9, 10, 12, dtype=double)
    boxes = random_boxes(6, 4.0).view(2, 3, 4).double()
    return [
        ('roi_align', lambda f: ops.roi_align(f, rois, 2, 0.7, 0, 'avg', True), [features]),
        ('roi_pool', lambda f: ops.roi_pool(f, rois, 2, 0.7), [features]),
        (
            'deform_roi_pool',
            lambda f, s: ops.deform_roi_pool(f, inner, s, 2, 0.5, 2, 0.1),
            [features, shift],
        ),
        ('border_align', lambda f: ops.border_align(f, boxes, 3), [features]),
        ('deform_conv', plain(CONVOLUTIONS[1]), [x, offset, weight]),
        ('modulated_deform_conv', modulated(CONVOLUTIONS[1]), [x, offset, mask, weight, bias]),
        ('multi_scale_deform_attn', attend, list(attention_inputs(double))),
        ('focal_loss', lambda z: ops.sigmoid_focal_loss(z, target, 2.0, 0.25), [logits]),
        (
            'focal_loss',
            lambda z: ops.softmax_focal_loss(z, target.clamp(max=2), 2.0, 0.25, None, 'mean'),
            [logits],
        ),
        ('carafe', lambda f, m: ops.carafe(f, m, 3, 1, 2), [features, kernels]),
        (
            'psa_mask',
            lambda m: module('psa_mask').psa_mask(m, 1, (3, 3)),
            [torch.randn(1, 9, 3, 4, dtype=double)],
        ),
    ]


@pytest.mark.parametrize('index', range(len(gradcheck_cases())))
def test_gradients_are_those_of_finite_differences(stand_in, index):
    name, function, tensors = gradcheck_cases()[index]
    stand_in(name)
    leaves = [each.requires_grad_() for each in tensors]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True, nondet_tol=1e-12)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('index', range(len(gradcheck_cases())))
def test_low_precision_equals_float32(stand_in, index, dtype):
    """What the operator computes is rounded only at the end."""
    name, function, tensors = gradcheck_cases()[index]
    stand_in(name)
    low = [each.to(dtype) for each in tensors]
    expected, wanted = forward_and_gradients(function, [each.float() for each in low])
    result, grads = forward_and_gradients(function, low)
    assert result.dtype == dtype
    tolerance = 0.02 if name == 'focal_loss' else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(result.float(), expected, rtol=tolerance, atol=tolerance)
    for grad, want in zip(grads, wanted):
        assert grad.dtype == dtype
        # The gradient of the result was rounded, so sums of it are less exact.
        limit = 0.05 * float(want.abs().max()) + 1e-3
        assert float((grad.float() - want).abs().max()) <= limit


def test_gradients_under_autocast(stand_in):
    stand_in('deform_conv', 'roi_align')
    layer = ops.DeformConv2dPack(3, 4, 3, padding=1)
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    rois = random_rois(3, 1, 6.0)

    def run():
        layer.zero_grad()
        out = ops.roi_align(layer(images), rois, 2, 1.0, 0, 'avg', True)
        out.float().square().sum().backward()
        return out, layer.weight.grad.clone()

    images = torch.rand(1, 3, 8, 8)
    expected, wanted = run()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        result, grad = run()
    assert grad.dtype == torch.float32 and grad.any()
    torch.testing.assert_close(result.float(), expected, rtol=0.1, atol=0.05)
    torch.testing.assert_close(grad, wanted, rtol=0.1, atol=0.05 * float(wanted.abs().max()))


def test_arrays_are_accepted_and_unchanged(stand_in):
    stand_in('nms')
    boxes, scores = random_boxes(30).numpy(), torch.rand(30).numpy()
    before = boxes.copy(), scores.copy()
    for function in (ops.nms, ops.soft_nms):
        dets, kept = function(boxes, scores, 0.3)
        assert isinstance(dets, np.ndarray) and len(dets) == len(kept) > 0
    assert np.array_equal(boxes, before[0]) and np.array_equal(scores, before[1])
