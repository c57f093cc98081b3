"""Rank statistics against a two-loop reference."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.ops import concordant_rank, discordance


def ell(x, tau):
    if x >= tau:
        return 0.0
    return (1 - x / tau) ** 2 if x >= 0 else 1 - 2 * x / tau


def by_hand(p, t, tau):
    wrong = [
        sum(max(ti - tj, 0.0) * ell(pi - pj, tau) for pj, tj in zip(p, t)) for pi, ti in zip(p, t)
    ]
    right = [sum(1 for pj, tj in zip(p, t) if tj >= ti and pj >= pi) for pi, ti in zip(p, t)]
    return wrong, right


@pytest.mark.parametrize('length', [1, 2, 9, 40])
@pytest.mark.parametrize('ties', [False, True])
def test_matches_two_loops(length, ties):
    torch.manual_seed(length)
    p, t = (torch.rand(length, dtype=torch.float64) * 2 - 1 for _ in range(2))
    if ties:
        p, t = (p * 3).round() / 3, (t * 3).round() / 3
    wrong, right = by_hand(p.tolist(), t.tolist(), 0.5)
    torch.testing.assert_close(discordance(p, t, 0.5), torch.tensor(wrong).double())
    assert concordant_rank(p, t).tolist() == right


def test_hand_computed_example():
    t = torch.tensor([0.9, 0.5, 0.1, -0.3])
    p = torch.tensor([0.8, 0.6, 0.0, -0.2])
    torch.testing.assert_close(discordance(p, t, 0.5), torch.tensor([0.144, 0.0, 0.144, 0.0]))
    assert concordant_rank(p, t).tolist() == [1, 2, 3, 4]
    p = torch.tensor([-0.2, 0.0, 0.6, 0.8])
    torch.testing.assert_close(discordance(p, t, 0.5), torch.tensor([10.08, 4.72, 0.72, 0.0]))


def test_gradient():
    torch.manual_seed(0)
    p = torch.rand(8, dtype=torch.float64, requires_grad=True)
    t = torch.rand(8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: discordance(x, t, 0.5), p)


def test_half_precision_is_computed_in_float32():
    p, t = torch.rand(5).bfloat16(), torch.rand(5).bfloat16()
    assert discordance(p, t, 0.5).dtype == torch.float32
    assert concordant_rank(p, t).dtype == torch.float32


def test_bad_input():
    with pytest.raises(ValueError, match='same length'):
        discordance(torch.rand(3), torch.rand(4), 0.5)
    with pytest.raises(ValueError, match='1-D'):
        concordant_rank(torch.rand(3, 3), torch.rand(3, 3))
    with pytest.raises(ValueError, match='tau must be > 0'):
        discordance(torch.rand(3), torch.rand(3), 0.0)
