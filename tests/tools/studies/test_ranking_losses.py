"""Compare each objective with plain loops; reject bad input."""

from __future__ import annotations

import math

import pytest
import torch
from ranking_losses import info_nce, list_mle, smooth_ap, soft_target_divergence, squared_error


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(3)
    pred = torch.rand(4, 6, generator=generator, dtype=torch.float64) * 2 - 1
    target = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    relevant = target > 0.6
    relevant[1] = False  # a query without a match
    assert relevant.any(dim=1).sum() == 3
    return pred, target, relevant


def softmax(values, temperature):
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def test_squared_error(rows):
    pred, target, _ = rows
    slow = [(p - t) ** 2 for p, t in zip(pred.flatten().tolist(), target.flatten().tolist())]
    assert squared_error(pred, target).item() == pytest.approx(sum(slow) / 24)


def test_info_nce(rows):
    pred, _, relevant = rows
    slow = []
    for scores, wanted in zip(pred.tolist(), relevant.tolist()):
        costs = [-math.log(share) for share, yes in zip(softmax(scores, 0.3), wanted) if yes]
        slow += [sum(costs) / len(costs)] if costs else []
    assert info_nce(pred, relevant, 0.3).item() == pytest.approx(sum(slow) / 3)


def test_soft_target_divergence(rows):
    pred, target, _ = rows
    slow = sum(
        t * math.log(t / p)
        for scores, wanted in zip(pred.tolist(), target.tolist())
        for p, t in zip(softmax(scores, 0.3), softmax(wanted, 0.3))
    )
    assert soft_target_divergence(pred, target, 0.3).item() == pytest.approx(slow / 4)
    assert soft_target_divergence(target, target, 0.3).item() == pytest.approx(0, abs=1e-12)


def test_list_mle(rows):
    pred, target, _ = rows
    slow = 0
    for scores, wanted in zip(pred.tolist(), target.tolist()):
        left = sorted(zip(wanted, scores), reverse=True)
        while left:
            slow -= math.log(softmax([score for _, score in left], 0.3)[0])
            left = left[1:]
    assert list_mle(pred, target, 0.3).item() == pytest.approx(slow / 24)


def test_list_mle_draws_the_order_of_equal_targets():
    pred = torch.tensor([[0.9, 0.1, 0.5]])
    target = torch.tensor([[1.0, 1.0, 0.0]])

    def cost(order):
        left = [pred[0, i].item() for i in order]
        return -sum(math.log(softmax(left[i:], 1.0)[0]) for i in range(3)) / 3

    possible = {round(cost(order), 5) for order in ([0, 1, 2], [1, 0, 2])}
    torch.manual_seed(0)
    assert {round(list_mle(pred, target, 1.0).item(), 5) for _ in range(30)} == possible


def test_smooth_ap(rows):
    pred, _, relevant = rows

    def above(i, j, scores):
        return 1 / (1 + math.exp(-(scores[j] - scores[i]) / 0.05))

    slow = []
    for scores, wanted in zip(pred.tolist(), relevant.tolist()):
        matches = [i for i, yes in enumerate(wanted) if yes]
        parts = [
            (1 + sum(above(i, j, scores) for j in matches if j != i))
            / (1 + sum(above(i, j, scores) for j in range(6) if j != i))
            for i in matches
        ]
        slow += [1 - sum(parts) / len(parts)] if matches else []
    assert smooth_ap(pred, relevant, 0.05).item() == pytest.approx(sum(slow) / 3)


def test_smooth_ap_becomes_average_precision():
    """Matches at ranks 1 and 3 of 4: (1/1 + 2/3) / 2."""
    pred = torch.tensor([[0.9, 0.2, 0.6, -0.3]])
    relevant = torch.tensor([[True, True, False, False]])
    assert smooth_ap(pred, relevant, 1e-4).item() == pytest.approx(1 - 5 / 6, abs=1e-6)


@pytest.mark.parametrize(
    'loss, graded',
    [(info_nce, False), (soft_target_divergence, True), (list_mle, True), (smooth_ap, False)],
)
def test_the_right_order_costs_less(loss, graded):
    target = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    wanted = target if graded else target > 0.5
    pred = (target - 0.5).requires_grad_()
    assert loss(pred, wanted, 0.2) < loss(-pred, wanted, 0.2)
    loss(-pred, wanted, 0.2).backward()
    assert pred.grad.abs().sum() > 0


@pytest.mark.parametrize('loss', [info_nce, smooth_ap])
def test_no_match_anywhere_costs_nothing(loss):
    pred = torch.rand(2, 3, requires_grad=True)
    value = loss(pred, torch.zeros(2, 3).bool(), 0.2)
    value.backward()
    assert value == 0 and (pred.grad == 0).all()


@pytest.mark.parametrize('loss', [info_nce, soft_target_divergence, list_mle, smooth_ap])
def test_bad_input(loss):
    with pytest.raises(ValueError, match='two matrices'):
        loss(torch.rand(2, 3), torch.rand(3, 2), 0.2)
    with pytest.raises(ValueError, match='temperature must be > 0, got 0'):
        loss(torch.rand(2, 3), torch.rand(2, 3), 0)
