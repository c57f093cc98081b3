from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cotap_mm.visualization.figures.norms import draw_outliers, feature_norms, norm_pixels


def tokens():
    """Tokens of two images with norms of about 2; one has a norm of 9, one of 2.6."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(2, 5, 6, 7, generator=generator), dim=1)
    norms = 2 + 0.02 * torch.rand(2, 1, 6, 7, generator=generator)
    norms[1, 0, 2, 3], norms[0, 0, 0, 0] = 9, 2.6
    return directions * norms


def test_outliers_are_far_above_the_median():
    found = feature_norms(tokens())
    assert np.argwhere(found.outliers).tolist() == [[1, 2, 3]]  # 2.6 is only 1.3 times the median
    assert found.median == pytest.approx(2.01, abs=0.01)
    assert found.maps[1, 2, 3] == pytest.approx(9 / found.median)
    assert found.summary == (
        f'median norm 2.01, largest {9 / found.median:.2f} x median, 1 outlier (1.2 % of patches)'
    )


def test_wide_distributions_have_no_outliers():
    norms = torch.linspace(1, 10, 100).view(1, 1, 10, 10)
    assert not feature_norms(norms).outliers.any()
    assert not feature_norms(torch.ones(1, 3, 4, 4)).outliers.any()


def test_outliers_do_not_set_the_color_scale():
    found = feature_norms(tokens())
    maps, scale = norm_pixels(found)
    assert scale.high == pytest.approx(2.6 / found.median) and scale.low < 1
    assert maps[1].shape == (6, 7, 3) and (maps[1][2, 3] == maps[0][0, 0]).all()  # both brightest


def test_outliers_are_framed_where_they_are():
    axes = Figure().add_subplot()
    draw_outliers(axes, feature_norms(tokens()).outliers[1], (60, 70))
    (frame,) = axes.patches
    assert frame.get_xy() == (29.5, 19.5) and (frame.get_width(), frame.get_height()) == (10, 10)


def test_shape_is_checked():
    with pytest.raises(ValueError, match=r'shape \(B, C, h, w\), got \(3, 4\)'):
        feature_norms(torch.ones(3, 4))
