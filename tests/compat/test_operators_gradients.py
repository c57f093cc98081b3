"""All operators: gradients are those of finite differences, also in low precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.compat.operator_helpers import (
    CONVOLUTIONS,
    attend,
    attention_inputs,
    convolution_inputs,
    forward_and_gradients,
    modulated,
    module,
    ops,
    plain,
    random_boxes,
    random_rois,
)


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
