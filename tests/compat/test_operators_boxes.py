"""Overlaps and suppression of boxes: as the compiled operators, or as slow references."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cotap_mm.compat.mmcv_ops import extension
from tests.compat.operator_helpers import ops, random_boxes


@pytest.mark.parametrize('count, ties', [(0, False), (1, False), (60, False), (60, True)])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.6])
def test_nms(compiled, stand_in, count, ties, offset, threshold):
    """Equal scores have the order of ``torch.sort``, which is not stable."""
    boxes, scores = random_boxes(count), torch.rand(count)
    if ties:
        scores = (scores * 4).round() / 4
    compiled('nms')
    expected = ops.nms(boxes, scores, threshold, offset)
    stand_in('nms')
    for result, wanted in zip(ops.nms(boxes, scores, threshold, offset), expected):
        assert torch.equal(result, wanted)


def test_nms_keeps_an_overlap_of_exactly_the_threshold(compiled, stand_in):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])
    scores = torch.tensor([0.9, 0.8])
    compiled('nms')
    expected = ops.nms(boxes, scores, 0.6)[1].tolist()
    stand_in('nms')
    assert ops.nms(boxes, scores, 0.6)[1].tolist() == expected == [0, 1]


@pytest.mark.parametrize('dtypes', [(torch.float16, torch.float32), (torch.float64,) * 2])
def test_nms_of_other_types(dtypes):
    boxes = torch.tensor([[0.0, 0, 8, 8], [1, 1, 8, 8], [4, 4, 12, 12]], dtype=dtypes[0])
    scores = torch.tensor([0.5, 0.75, 0.875], dtype=dtypes[1])
    assert extension.nms(boxes, scores, iou_threshold=0.5, offset=0).tolist() == [2, 1]


def test_batched_nms(compiled, stand_in):
    boxes, scores, labels = random_boxes(80), torch.rand(80), torch.randint(0, 3, (80,))
    configs = [
        dict(type=kind, iou_threshold=0.5, split_thr=split)
        for kind, split in itertools.product(['nms', 'soft_nms'], [10000, 10])
    ]
    compiled('nms')
    expected = [ops.batched_nms(boxes, scores, labels, each) for each in configs]
    stand_in('nms')
    for config, wanted in zip(configs, expected):
        result = ops.batched_nms(boxes, scores, labels, config)
        torch.testing.assert_close(result[0], wanted[0])
        assert torch.equal(result[1], wanted[1])


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('count, ties', [(0, False), (1, False), (50, False), (50, True)])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('least', [0.001, 0.3])
def test_soft_nms(compiled, stand_in, method, count, ties, offset, least):
    boxes, scores = random_boxes(count), torch.rand(count)
    if ties:
        scores = (scores * 4).round() / 4
        boxes = boxes.round()
    arguments = dict(sigma=0.4, min_score=least, method=method, offset=offset)
    compiled('nms')
    expected = ops.soft_nms(boxes, scores, 0.3, **arguments)
    stand_in('nms')
    result = ops.soft_nms(boxes, scores, 0.3, **arguments)
    assert torch.equal(result[1], expected[1])
    torch.testing.assert_close(result[0], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('threshold', [0.2, 0.6])
@pytest.mark.parametrize('ties', [True, False])
def test_nms_match(compiled, stand_in, threshold, ties):
    scores = (torch.rand(60, 1) * 4).round() / 4 if ties else torch.rand(60, 1)
    dets = torch.cat([random_boxes(60), scores], dim=1)
    compiled('nms')
    expected = ops.nms_match(dets, threshold)
    stand_in('nms')
    result = ops.nms_match(dets, threshold)
    assert [each.tolist() for each in result] == [each.tolist() for each in expected]
    assert ops.nms_match(dets[:0], threshold) == []


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('offset', [0, 1])
def test_bbox_overlaps(compiled, stand_in, mode, aligned, offset):
    first, second = random_boxes(12), random_boxes(12 if aligned else 7)
    compiled('bbox')
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


def test_arrays_are_accepted_and_unchanged(stand_in):
    stand_in('nms')
    boxes, scores = random_boxes(30).numpy(), torch.rand(30).numpy()
    before = boxes.copy(), scores.copy()
    for function in (ops.nms, ops.soft_nms):
        dets, kept = function(boxes, scores, 0.3)
        assert isinstance(dets, np.ndarray) and len(dets) == len(kept) > 0
    assert np.array_equal(boxes, before[0]) and np.array_equal(scores, before[1])
