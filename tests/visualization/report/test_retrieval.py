from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cotap_mm.visualization.report.retrieval import crop_around, nearest_patches


def test_best_patches_of_other_images_by_a_loop():
    features = torch.randn(4, 6, 3, 5, generator=torch.Generator().manual_seed(1))
    query = (2, 1, 4)
    wanted = []
    for image in (0, 1, 3):
        for row in range(3):
            for column in range(5):
                pair = features[2, :, 1, 4], features[image, :, row, column]
                wanted.append((float(F.cosine_similarity(*pair, dim=0)), image, row, column))
    wanted.sort(reverse=True)
    found = nearest_patches(features, query, 7)
    assert [(m.image, m.row, m.column) for m in found] == [each[1:] for each in wanted[:7]]
    assert [m.similarity for m in found] == pytest.approx([each[0] for each in wanted[:7]])


def test_patches_of_one_image_are_apart():
    features = torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(1))
    found = nearest_patches(features, (0, 4, 4), 50, apart=3)
    for one in found:
        for other in found:
            if one is not other:
                assert max(abs(one.row - other.row), abs(one.column - other.column)) >= 3
    assert 4 <= len(found) <= 9  # until no patch is left


def test_one_image_is_not_enough():
    with pytest.raises(ValueError, match='at least two images, got one|got 1'):
        nearest_patches(torch.ones(1, 3, 2, 2), (0, 0, 0), 1)


@pytest.mark.parametrize(
    'center, top_left', [((10, 10), (6, 6)), ((1, 10), (0, 6)), ((19, 29), (12, 22))]
)
def test_cutouts_are_shifted_into_the_image(center, top_left):
    image = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)
    cutout, inside = crop_around(image, center, 8)
    top, left = top_left
    assert (cutout == image[top : top + 8, left : left + 8]).all()
    assert inside == (center[0] - top, center[1] - left)
    assert crop_around(image, center, 50)[0].shape == (20, 20, 3)
