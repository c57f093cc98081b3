from __future__ import annotations

import numpy as np
import pytest
import torch

from cotap_mm.visualization import attention_overlay, prototype_gallery
from cotap_mm.visualization.figures.prototypes import (
    distinct_prototypes,
    most_used_prototypes,
    top_patches,
)


def test_most_used_counts_patches_by_preference():
    weights = torch.full((1, 2, 3, 3), 0.2)
    weights[..., 0] = 0.6  # everywhere the largest, but never preferred to its own mean
    weights[0, 0, :, 2] += 0.1
    weights[0, 1, :2, 1] += 0.1
    weights[0, 1, 2, 0] += 0.1
    assert most_used_prototypes(weights, 3) == [2, 1, 0]
    assert most_used_prototypes(weights, 1) == [2]


def test_top_patches_come_from_different_images():
    weights = torch.zeros(3, 2, 2, 2)
    weights[0, 0, 1, 1], weights[0, 1, 1, 1], weights[2, 1, 0, 1] = 0.5, 0.4, 0.9
    assert top_patches(weights, 1, 2) == [(2, 1, 0), (0, 0, 1)]


@pytest.mark.slow
def test_gallery_draws_rows():
    images = [np.full((16, 16, 3), 40 * i, dtype=np.uint8) for i in range(3)]
    attention = torch.rand(3, 2, 2, 2, 5).softmax(dim=-1)
    small = prototype_gallery(images, attention, num_prototypes=2, title='gallery')
    large = prototype_gallery(images, attention, num_prototypes=4)
    assert small.dtype == np.uint8 and small.shape[2] == 3
    assert large.shape[0] > small.shape[0]
    with pytest.raises(ValueError, match='B=2'):
        prototype_gallery(images[:2], attention)


def test_overlay_is_bright_where_attention_is():
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    found = attention_overlay(image, np.array([[1.0, 0.0], [0.0, 0.0]]), 0, 1)
    assert found[0, 0].sum() > found[7, 7].sum()


def test_prototypes_with_the_same_map_are_shown_once():
    weights = torch.full((2, 3, 4, 6), 0.01)
    weights[:, :, :2, 0] = 0.5  # the left half
    weights[:, :, :2, 3] = 0.3  # weaker, but the same map
    weights[:, :, :2, 5] = 0.28
    weights[:, :, 2:, 1] = 0.4  # the right half
    weights[:, 0, :, 2] = 0.2  # the top row
    weights[..., 4] = torch.arange(12).view(3, 4) % 5 / 50
    found = [sorted([first, *members]) for first, members in distinct_prototypes(weights, 6)]
    assert sorted(found) == [[0, 3, 5], [1], [2], [4]]
    assert len(distinct_prototypes(weights, 2)) == 2
    apart = distinct_prototypes(weights, 6, similar=1.1)
    assert len(apart) == 6 and not any(others for _, others in apart)
