"""Prototype entropy: loops, limits, gradient, bad input."""

from __future__ import annotations

import math

import pytest
import torch

from cotap_mm.models import PrototypeEntropyLoss


def by_hand(prototypes, templates, temperature):
    total = 0.0
    for p in prototypes.flatten(1).tolist():
        cosines = []
        for t in templates.flatten(1).tolist():
            dot = sum(a * b for a, b in zip(p, t))
            cosines.append(dot / math.sqrt(sum(a * a for a in p) * sum(b * b for b in t)))
        weights = [math.exp(c / temperature) for c in cosines]
        shares = [w / sum(weights) for w in weights]
        total -= sum(s * math.log(s) for s in shares)
    return total / len(prototypes)


def test_matches_loops():
    prototypes, templates = torch.randn(3, 2, 3, 3).double(), torch.randn(5, 2, 3, 3).double()
    got = PrototypeEntropyLoss(0.2)(prototypes, templates).item()
    assert got == pytest.approx(by_hand(prototypes, templates, 0.2))


def test_limits():
    templates = torch.randn(4, 2, 3, 3)
    same = templates[:1].expand(4, -1, -1, -1)
    assert PrototypeEntropyLoss()(templates, same).item() == pytest.approx(math.log(4), rel=1e-5)
    assert PrototypeEntropyLoss(1e-3)(templates, templates).item() == pytest.approx(0, abs=1e-4)
    assert PrototypeEntropyLoss()(templates, templates[:1]).item() == 0


def test_scale_of_prototypes_has_no_effect():
    prototypes, templates = torch.randn(3, 2, 3, 3), torch.randn(5, 2, 3, 3)
    loss_fn = PrototypeEntropyLoss()
    torch.testing.assert_close(loss_fn(prototypes * 7, templates), loss_fn(prototypes, templates))


def test_gradient():
    prototypes = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    templates = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: PrototypeEntropyLoss()(x, templates), prototypes)


def test_half_precision():
    prototypes, templates = torch.randn(3, 2, 3, 3).bfloat16(), torch.randn(5, 2, 3, 3).half()
    assert PrototypeEntropyLoss()(prototypes, templates).dtype == torch.float32


def test_bad_input():
    prototypes = torch.randn(3, 2, 3, 3)
    with pytest.raises(ValueError, match='agree in d'):
        PrototypeEntropyLoss()(prototypes, torch.randn(3, 4, 3, 3))
    with pytest.raises(ValueError, match='T be >= 1'):
        PrototypeEntropyLoss()(prototypes, torch.randn(0, 2, 3, 3))
    prototypes[0, 0, 0, 0] = float('nan')
    with pytest.raises(ValueError, match='finite'):
        PrototypeEntropyLoss()(prototypes, torch.randn(3, 2, 3, 3))
    with pytest.raises(ValueError, match='temperature'):
        PrototypeEntropyLoss(-1)
