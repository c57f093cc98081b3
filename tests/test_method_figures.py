"""The figures of docs/method.md follow the loss that they explain."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.models.losses import PatchRankingLoss
from cotap_mm.ops import concordant_rank, discordance

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / 'tools' / 'docs'))
import figures  # noqa: E402  # isort: skip


def test_constants_are_the_defaults_of_the_loss():
    defaults = inspect.signature(PatchRankingLoss).parameters
    assert defaults['tau'].default == figures.TAU
    assert defaults['threshold'].default == figures.THETA
    assert defaults['negative_weight'].default == figures.ALPHA


def test_terms_are_those_of_the_loss():
    pred, target = (torch.from_numpy(x) for x in (figures.STUDENT, figures.TEACHER))
    wrong, right, _, loss = figures.ranking_terms(
        figures.STUDENT, figures.TEACHER, figures.NEIGHBOR
    )
    assert wrong == pytest.approx(discordance(pred, target, figures.TAU).numpy())
    assert right == pytest.approx(concordant_rank(pred, target).double().numpy())
    neighbor = torch.from_numpy(figures.NEIGHBOR)
    assert loss == pytest.approx(PatchRankingLoss()(pred, target, neighbor).item(), rel=1e-6)


@pytest.mark.parametrize(
    'pred, expected', [((0.8, 0.6, 0, -0.2), 0.072476), ((-0.2, 0, 0.6, 0.8), 0.811388)]
)
def test_terms_by_hand(pred, expected):
    target = np.array([0.9, 0.5, 0.1, -0.3])
    loss = figures.ranking_terms(np.array(pred), target, np.array([True, True, True, False]))[3]
    assert loss == pytest.approx(expected, abs=1e-5)


def test_penalty_is_continuous_and_decreasing():
    gap = np.linspace(-1, 1, 401)
    values = figures.penalty(gap)
    assert (np.diff(values) <= 0).all() and np.abs(np.diff(values)).max() < 0.03
    assert figures.penalty([figures.TAU, 0, -figures.TAU]) == pytest.approx([0, 1, 3])


@pytest.mark.slow
def test_figures_are_drawn_and_shipped(tmp_path):
    page = (ROOT / 'docs' / 'method.md').read_text()
    for path in figures.draw_all(tmp_path / 'new'):
        shipped = ROOT / 'docs' / 'images' / path.name
        assert f'(images/{path.name})' in page
        with Image.open(path) as drawn, Image.open(shipped) as image:
            assert drawn.size == image.size and np.asarray(drawn.convert('L')).std() > 5
