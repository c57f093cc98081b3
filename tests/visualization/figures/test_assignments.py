from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cotap_mm.visualization.figures.assignments import (
    OTHERS,
    assign_patches,
    assignment_overlay,
)
from cotap_mm.visualization.figures.clusters import distinct_colors


def nearly_uniform():
    """Attention to 4 prototypes: 2 stands out on the left, 0 on the right, 3 is strongest."""
    logits = torch.zeros(2, 4, 6, 4)
    logits[..., 3] = 1.0  # everywhere
    logits[:, :, :4, 2] += 0.1
    logits[:, :, 4:, 0] += 0.1
    return logits.softmax(dim=-1)


def test_a_prototype_that_is_strong_everywhere_does_not_win_everywhere():
    attention = nearly_uniform()
    assert (attention.argmax(dim=-1) == 3).all()  # what a plain maximum would show
    found = assign_patches(attention)
    assert found.prototypes == [2, 0]  # the most used first
    assert (found.labels[:, :, :4] == 0).all() and (found.labels[:, :, 4:] == 1).all()
    assert found.shares == pytest.approx([2 / 3, 1 / 3, 0])


def test_statistics():
    uniform = assign_patches(torch.full((1, 2, 2, 8), 1 / 8))
    assert uniform.entropy == pytest.approx(1) and uniform.contrast == pytest.approx(1)
    assert uniform.effective == pytest.approx(1)
    hard = assign_patches(torch.eye(4).view(1, 2, 2, 4))
    assert hard.entropy == pytest.approx(0, abs=1e-6) and hard.contrast == pytest.approx(4)
    assert hard.effective == pytest.approx(4)
    assert '4.0 of 4 prototypes' in hard.summary(4) and ' 0.0 % of' in hard.summary(4)
    two = assign_patches(nearly_uniform())
    by_hand = math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert two.effective == pytest.approx(by_hand)


def test_rare_prototypes_share_a_color():
    attention = torch.full((1, 1, 12, 5), 0.01)
    for column, prototype in enumerate([0] * 5 + [1] * 4 + [2] * 2 + [3]):
        attention[0, 0, column, prototype] = 1
    found = assign_patches(attention, most_colors=2)
    assert found.prototypes == [0, 1] and found.labels.max() == 2
    assert list(found.legend) == ['0 (42 %)', '1 (33 %)', 'others (25 %)']
    image = np.full((4, 12, 3), 100, dtype=np.uint8)
    shown = assignment_overlay(image, found.labels[0], 2)
    expected = [(0.7 * np.array(color) + 30).astype(np.uint8) for color in distinct_colors(2)]
    assert (shown[0, 0] == expected[0]).all() and (shown[0, 6] == expected[1]).all()
    assert (shown[0, 11] == (0.7 * np.array(OTHERS) + 30).astype(np.uint8)).all()


def test_shape_is_checked():
    with pytest.raises(ValueError, match=r'\(B, h, w, M\), got \(2, 3\)'):
        assign_patches(torch.ones(2, 3))
