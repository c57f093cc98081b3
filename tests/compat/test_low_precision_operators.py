"""MMCV operators on CPU: results in bfloat16 and float16 equal those in float32."""

from __future__ import annotations

import pytest
import torch

ops = pytest.importorskip('mmcv.ops')
EXTENSION = pytest.importorskip('mmcv._ext')

from cotap_mm.compat.low_precision_operators import allow_low_precision_operators  # noqa: E402


@pytest.fixture(scope='module', autouse=True)
def allowed():
    allow_low_precision_operators()
    assert allow_low_precision_operators() == 0  # already wrapped


BOXES = torch.tensor([[0.0, 0.0, 8.0, 8.0], [1.0, 1.0, 8.0, 8.0], [4.0, 4.0, 12.0, 12.0]])
SCORES = torch.tensor([0.875, 0.75, 0.5])  # exact in bfloat16
ROIS = torch.cat([torch.zeros(3, 1), BOXES], dim=1)


def deform(values):
    weight = torch.ones(2, 3, 3, 3, dtype=values.dtype)
    offset = torch.zeros(1, 18, 14, 14, dtype=values.dtype)
    return ops.deform_conv2d(values, offset, weight)


def modulated(values):
    weight = torch.ones(2, 3, 3, 3, dtype=values.dtype)
    offset = torch.zeros(1, 18, 14, 14, dtype=values.dtype)
    mask = torch.ones(1, 9, 14, 14, dtype=values.dtype)
    return ops.modulated_deform_conv2d(values, offset, mask, weight, None, 1, 0, 1, 1, 1)


#: Name -> function of values, shape (1, 3, 16, 16), of any precision.
OPERATORS = {
    'nms': lambda v: ops.nms(BOXES, SCORES.to(v.dtype), 0.5)[0],
    'batched_nms': lambda v: ops.batched_nms(
        BOXES, SCORES.to(v.dtype), torch.zeros(3).long(), dict(type='nms', iou_threshold=0.5)
    )[0],
    'soft_nms': lambda v: ops.soft_nms(BOXES, SCORES.to(v.dtype), 0.5)[0],
    'nms_rotated': lambda v: ops.nms_rotated(
        torch.cat([BOXES, torch.zeros(3, 1)], 1), SCORES.to(v.dtype), 0.5
    )[0],
    'roi_align': lambda v: ops.roi_align(v, ROIS.to(v.dtype), (2, 2), 1.0, 0, 'avg', True),
    'roi_align of float32 boxes': lambda v: ops.roi_align(v, ROIS, (2, 2), 1.0, 0, 'avg', True),
    'deform_conv2d': deform,
    'modulated_deform_conv2d': modulated,
    'bbox_overlaps': lambda v: ops.bbox_overlaps(BOXES.to(v.dtype), BOXES.to(v.dtype)),
}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', OPERATORS)
def test_results_equal_float32(name, dtype):
    if name == 'nms_rotated' and hasattr(EXTENSION, '__all__'):
        pytest.skip('mmcv-lite: this operator has no stand-in')
    values = torch.arange(768.0).view(1, 3, 16, 16) % 16  # exact in bfloat16
    expected = OPERATORS[name](values)
    given = values.to(dtype)
    result = OPERATORS[name](given)
    assert torch.equal(given, values.to(dtype))  # arguments are unchanged
    assert result.shape == expected.shape
    torch.testing.assert_close(result.float(), expected, rtol=1e-2, atol=1e-2)


def test_gradients_under_autocast():
    """The backward pass needs the arguments of the operator."""
    values = torch.rand(1, 3, 16, 16, requires_grad=True)
    layer = torch.nn.Conv2d(3, 3, 1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = layer(values).relu()
        ops.roi_align(features, ROIS, (2, 2), 1.0, 0, 'avg', True).float().square().sum().backward()
    low = values.grad.clone()
    values.grad = None
    features = layer(values).relu()
    ops.roi_align(features, ROIS, (2, 2), 1.0, 0, 'avg', True).square().sum().backward()
    torch.testing.assert_close(low, values.grad, rtol=0.1, atol=0.05)


def test_float32_is_unchanged():
    values = torch.rand(1, 3, 16, 16)
    result = ops.roi_align(values, ROIS, (2, 2), 1.0, 0, 'avg', True)
    assert result.dtype == torch.float32 and result.shape == (3, 3, 2, 2)
