from __future__ import annotations

import numpy as np
import pytest
import torch

from cotap_mm.visualization import similarity_figure, similarity_map
from cotap_mm.visualization.figures.similarity import similarity_panels


def test_similarity_is_the_cosine():
    patches, other = torch.randn(5, 3, 4), torch.randn(5, 2, 2)
    found = similarity_map(patches, (1, 2))
    wanted = torch.nn.functional.cosine_similarity(patches, patches[:, 1:2, 2:3], dim=0)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)
    assert found[1, 2] == pytest.approx(1)
    np.testing.assert_allclose(
        similarity_map(patches, (1, 2), other),
        torch.nn.functional.cosine_similarity(other, patches[:, 1:2, 2:3], dim=0).numpy(),
        atol=1e-6,
    )
    with pytest.raises(ValueError, match='inside the 3 x 4 grid'):
        similarity_map(patches, (3, 0))


def test_similarity_figure_marks_a_row_for_each_network():
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    features = (torch.randn(4, 2, 2), torch.randn(4, 2, 2))
    one = similarity_figure(image, image, (0, 1), {'before': features})
    two = similarity_figure(image, image, (0, 1), {'before': features, 'after': features}, 'both')
    assert one.dtype == np.uint8 and one.shape[2] == 3
    assert two.shape[0] > one.shape[0] and two.shape[1] == one.shape[1]


def test_panels_share_a_scale_from_the_smallest_similarity_to_one():
    features = torch.randn(3, 5, 2, 4)
    panels, scale = similarity_panels(list(features), 1, (0, 2))
    maps = [similarity_map(features[1], (0, 2), other) for other in features]
    assert scale[:2] == (min(values.min() for values in maps), 1)
    assert panels[1][0, 2].tolist() == [253, 231, 37]  # viridis at 1
    darkest = [(panel == [68, 1, 84]).all(axis=2) for panel in panels]
    assert sum(mask.sum() for mask in darkest) >= 1
    unit = torch.nn.functional.normalize(features, dim=1)
    again, same = similarity_panels(list(unit), 1, (0, 2), normalized=True)
    assert same.low == pytest.approx(scale.low, abs=1e-6)
    assert all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(panels, again))


def test_figure_takes_a_neighbor_of_another_shape():
    image, neighbor = (np.full((16, width, 3), 50, dtype=np.uint8) for width in (16, 32))
    pair = (torch.randn(4, 2, 2), torch.randn(4, 2, 4))
    picture = similarity_figure(image, neighbor, (0, 0), {'net': pair})
    plain = similarity_figure(image, image, (0, 0), {'net': (pair[0], pair[0])})
    assert picture.shape == plain.shape
