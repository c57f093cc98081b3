from __future__ import annotations

import numpy as np
import pytest

from cotap_mm.visualization.figures.canvas import render
from cotap_mm.visualization.figures.overview import (
    Cutout,
    NetworkView,
    Query,
    overview_figure,
)

SUBTITLES = ('a', 'b', 'c', 'd')


def flat(color, height=20, width=30):
    return np.full((height, width, 3), color, dtype=np.uint8)


def query(networks=('one', 'two'), crops=6):
    cutout = Cutout(flat((0, 0, 250), 8, 8), (0.4, 0.4, 0.2, 0.2))
    similarity = np.zeros((4, 6))
    similarity[1, 2] = 1
    view = NetworkView(similarity, flat((250, 0, 0), 4, 6), [cutout] * crops)
    return Query(flat((0, 250, 0)), (0.4, 0.25, 0.1, 0.1), cutout, dict.fromkeys(networks, view))


def area(picture, color):
    return int((np.abs(picture.astype(int) - color).max(axis=2) < 8).sum())


def test_size_and_panels():
    one, two = (render(overview_figure([query()] * count, SUBTITLES)) for count in (1, 2))
    assert one.shape[1] == two.shape[1] == 1600
    assert 1.7 < two.shape[0] / one.shape[0] < 2
    # One photograph per query, components for both networks of each.
    green, red = ((0, 250, 0), (250, 0, 0))
    assert area(two, green) == pytest.approx(2 * area(one, green), rel=0.02)
    assert area(one, red) == pytest.approx(2 * area(one, green), rel=0.05)
    assert area(one, (253, 231, 37)) > 100  # the most similar patch


def test_panels_do_not_touch():
    picture = render(overview_figure([query()], SUBTITLES))
    below = picture[120:]
    white = (below == 255).all(axis=(0, 2))  # columns of pixels that are white from top to bottom
    assert (np.diff(white.astype(int)) == 1).sum() >= 4  # margins and gaps between four columns


def test_fewer_matches_and_other_numbers_of_networks():
    for networks in (('one',), ('a', 'b', 'a network with a very long name')):
        picture = render(overview_figure([query(networks, crops=2)], SUBTITLES))
        assert picture.shape[1] == 1600 and area(picture, (250, 0, 0)) > 1000
    with pytest.raises(ValueError, match='at least one patch'):
        overview_figure([], SUBTITLES)
