"""The losses of whole trainings stay what they are; see loss_curves.py."""

from __future__ import annotations

import pytest

from tests.helpers import loss_curves


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(loss_curves.SETTINGS))
def test_golden_loss_curve(tmp_path, name):
    stored, seen = loss_curves.read(name), loss_curves.train(name, tmp_path)
    assert len(seen) == len(stored) == loss_curves.STEPS
    for step, (row, expected) in enumerate(zip(seen, stored), start=1):
        assert row == pytest.approx(expected, rel=1e-6, abs=1e-9), f'step {step}'


def test_a_curve_is_written_as_it_is(tmp_path, monkeypatch):
    rows = [dict(loss=1 / 3, loss_x=1e-7), dict(loss=2.5, loss_x=-1.0)]
    monkeypatch.setattr(loss_curves, 'CURVES', tmp_path)
    loss_curves.write('x', rows)
    assert loss_curves.read('x') == rows
