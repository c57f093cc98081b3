"""Focal losses: as slow references."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.compat.operator_helpers import forward_and_gradients, ops


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
