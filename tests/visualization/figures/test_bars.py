from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cotap_mm.visualization.figures.bars import comparison_figure
from cotap_mm.visualization.figures.canvas import SERIES


def result(backbone, value, protocol='knn'):
    return SimpleNamespace(
        backbone=backbone, protocol=protocol, metric='top1', data='toy', value=value
    )


def area(picture, color):
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(picture.astype(int) - rgb) < 8).all(axis=2).sum()


def test_bars_are_as_long_as_the_values():
    picture = comparison_figure([result('one', 20.0), result('two', 40.0)])
    first, second = (area(picture, color) for color in SERIES[:2])
    assert second / first == pytest.approx(2, rel=0.1)


def test_a_panel_for_each_protocol_and_gaps_for_missing_values():
    one = comparison_figure([result('one', 20.0), result('two', 40.0)])
    many = comparison_figure([result('one', 20.0, str(i)) for i in range(4)] + [result('two', 3.0)])
    assert many.shape[0] > one.shape[0] and many.shape[1] > one.shape[1]
    assert comparison_figure([result('one', None), result('two', float('nan'))]).ndim == 3
    with pytest.raises(ValueError, match='at least one result'):
        comparison_figure([])
