"""Patch ranking loss: two-loop reference, properties, gradient, bad input."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.models import PatchRankingLoss
from cotap_mm.registry import MODELS


def ell(x, tau):
    if x >= tau:
        return 0.0
    return (1 - x / tau) ** 2 if x >= 0 else 1 - 2 * x / tau


def by_hand(p, t, m, tau=0.5, theta=-0.2, alpha=0.1):
    top = bottom = 0.0
    for pi, ti, mi in zip(p, t, m):
        wrong = right = 0.0
        for pj, tj in zip(p, t):
            wrong += max(ti - tj, 0.0) * ell(pi - pj, tau)
            right += tj >= ti and pj >= pi
        r = wrong / (right + 1e-5)
        w = max(ti - theta, 0.0) * (1.0 if mi else alpha)
        top += w * r / (1 + r)
        bottom += w
    return top / (bottom + 1e-5)


def pairs(length, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    p, t = (torch.rand(length, generator=generator, dtype=dtype) * 2 - 1 for _ in range(2))
    return p, t, torch.rand(length, generator=generator) < 0.3


@pytest.mark.parametrize('length', [1, 2, 7, 33])
def test_matches_two_loops(length):
    p, t, m = pairs(length, seed=length)
    got = PatchRankingLoss()(p, t, m).item()
    assert got == pytest.approx(by_hand(p.tolist(), t.tolist(), m.tolist()), rel=1e-9, abs=1e-12)


def test_ties_match_two_loops():
    p, t, m = pairs(30)
    p, t = (p * 2).round() / 2, (t * 2).round() / 2
    got = PatchRankingLoss(tau=0.3, threshold=0.1, negative_weight=0.7)(p, t, m).item()
    assert got == pytest.approx(by_hand(p.tolist(), t.tolist(), m.tolist(), 0.3, 0.1, 0.7))


@pytest.mark.parametrize(
    'pred, wanted', [((0.8, 0.6, 0.0, -0.2), 0.072476), ((-0.2, 0.0, 0.6, 0.8), 0.811388)]
)
def test_hand_computed_example(pred, wanted):
    t, m = torch.tensor([0.9, 0.5, 0.1, -0.3]), torch.tensor([1, 1, 1, 0])
    assert PatchRankingLoss()(torch.tensor(pred), t, m).item() == pytest.approx(wanted, abs=1e-6)


def test_a_constant_changes_nothing():
    p, t, m = pairs(20)
    torch.testing.assert_close(PatchRankingLoss()(p + 0.37, t, m), PatchRankingLoss()(p, t, m))


def test_perfect_order_with_gaps_has_zero_loss():
    t = torch.linspace(-0.1, 0.9, 6)
    p = torch.arange(6) * 0.5
    assert PatchRankingLoss()(p, t, torch.ones(6)).item() == 0


def test_agreement_has_lower_loss_than_reversal():
    p, t, m = pairs(20)
    assert PatchRankingLoss()(t, t, m) < PatchRankingLoss()(-t, t, m)


def test_equal_targets_have_zero_loss():
    p, _, m = pairs(9)
    p.requires_grad_()
    loss = PatchRankingLoss()(p, torch.full_like(p, 0.3), m)
    loss.backward()
    assert loss.item() == 0 and not p.grad.any()


def test_gradient_reaches_the_student_only():
    p, t, m = pairs(9)
    p.requires_grad_()
    t.requires_grad_()
    PatchRankingLoss()(p, t, m).backward()
    assert p.grad.any() and t.grad is None
    assert torch.autograd.gradcheck(lambda x: PatchRankingLoss()(x, t, m), p)


def test_one_pair():
    assert (
        PatchRankingLoss()(torch.tensor([0.3]), torch.tensor([0.5]), torch.tensor([1])).item() == 0
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    p, t, m = pairs(12)
    p, t = p.to(dtype), t.to(dtype)
    loss = PatchRankingLoss()(p, t, m)
    assert loss.dtype == torch.float32
    exact = by_hand(p.double().tolist(), t.double().tolist(), m.tolist())
    assert loss.item() == pytest.approx(exact, rel=1e-5)


def test_bad_input():
    p, t, m = pairs(4)
    loss_fn = PatchRankingLoss()
    p[1] = float('nan')
    with pytest.raises(ValueError, match='pred must be finite, got 1 of 4'):
        loss_fn(p, t, m)
    with pytest.raises(ValueError, match='same length'):
        loss_fn(t, t, m[:3])
    with pytest.raises(ValueError, match='tau'):
        PatchRankingLoss(tau=0)
    with pytest.raises(ValueError, match='negative_weight'):
        PatchRankingLoss(negative_weight=-1)


def test_builds_from_config():
    loss_fn = MODELS.build(dict(type='cotap_mm.PatchRankingLoss', tau=0.4))
    assert isinstance(loss_fn, PatchRankingLoss) and loss_fn.tau == 0.4
