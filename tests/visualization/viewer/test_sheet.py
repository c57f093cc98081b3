"""Both layouts of the viewer's sheet."""

from __future__ import annotations

import numpy as np
import pytest

from cotap_mm.visualization.figures.grid import Scale
from cotap_mm.visualization.figures.norms import MARK
from cotap_mm.visualization.viewer.sheet import HEAD, NARROW, Point, Sheet

NAMES = ('image', 'one', 'two')


def draw(sheet, images=2, **options):
    """Draw a sheet whose pictures have one color each: 20 x series + 45 x image."""
    rows = {
        name: [np.full((4, 4, 3), 20 * s + 45 * i, dtype=np.uint8) for i in range(images)]
        for s, name in enumerate(NAMES)
    }
    return sheet.draw(rows, Point(1, 0.5, 0.5), (4, 4), **options)


@pytest.mark.parametrize('upright', [False, True])
def test_pictures_are_where_clicks_expect_them(upright):
    sheet = Sheet((40, 60), 3, upright)
    pixels = draw(sheet)
    for series in range(3):
        for image in range(2):
            left, top = sheet.corner(series, image)
            x, y = left + 0.9 * sheet.width, top + 0.2 * sheet.height
            assert (pixels[int(y), int(x)] == 20 * series + 45 * image).all()
            point = sheet.locate(x, y, 2)
            assert point.slot == image and point.patch((4, 4)) == (0, 3)
    assert sheet.locate(sheet.corner(0, 1)[0] - 3, 100, 2) is None or upright
    assert sheet.locate(*sheet.corner(0, 2), 2) is None  # a third image
    assert sheet.locate(*sheet.corner(3, 0), 2) is None  # a third network


def test_upright_sheet_has_the_width_of_a_phone():
    for count in (2, 3, 6):
        sheet = Sheet((40, 60), count, upright=True)
        assert NARROW - count <= sheet.corner(count - 1, 0)[0] + sheet.width <= NARROW
    few, many = (draw(Sheet((40, 60), 3, True), images).shape for images in (2, 5))
    assert few[1] == many[1] and many[0] - HEAD == pytest.approx(2.5 * (few[0] - HEAD), rel=0.02)


@pytest.mark.parametrize('upright', [False, True])
def test_scale_legend_and_marks(upright):
    sheet = Sheet((40, 60), 3, upright)
    plain = draw(sheet)
    marks = np.zeros((2, 4, 4), dtype=bool)
    marks[0, 3, 0] = True
    full = draw(
        sheet,
        scales={'one': Scale(0, 1, 'cividis', 'x')},
        legend={f'name {k}': (0, 0, 10 * k) for k in range(40)},
        marks={'two': marks},
    )
    assert full.shape[0] > plain.shape[0] and full.shape[1] == plain.shape[1]
    left, top = sheet.corner(2, 0)
    box = full[top : top + sheet.height, left : left + sheet.width]
    found = np.argwhere((box == MARK).all(axis=2))
    assert found[:, 0].min() == pytest.approx(0.75 * sheet.height, abs=2)
    assert found[:, 1].max() == pytest.approx(0.25 * sheet.width, abs=2)
    assert (full[: plain.shape[0]] != plain).any()
    legend = full[plain.shape[0] :]
    assert {tuple(color) for color in legend.reshape(-1, 3)} >= {(0, 0, 10 * k) for k in range(26)}
