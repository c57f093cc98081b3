from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from cotap_mm.visualization import colorize, image_grid, side_by_side


def flat(*color, size=8):
    return np.full((size, size, 3), color, dtype=np.uint8)


def assert_picture(array):
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
    assert len(np.unique(array.reshape(-1, 3), axis=0)) > 2


@pytest.mark.slow
def test_grid_puts_each_image_in_its_cell():
    red, green, blue = flat(255, 0, 0), flat(0, 255, 0), flat(0, 0, 255)
    picture = image_grid([[red, green], [blue, None]])
    assert_picture(picture)
    height, width = picture.shape[:2]

    def at(y, x):
        return picture[int(y * height), int(x * width)].tolist()

    assert at(0.25, 0.25) == [255, 0, 0] and at(0.25, 0.75) == [0, 255, 0]
    assert at(0.75, 0.25) == [0, 0, 255] and at(0.75, 0.75) == [255, 255, 255]


def test_titles_and_legend_take_space():
    plain = image_grid([[flat(255, 0, 0)]])
    full = image_grid([[flat(255, 0, 0)]], ['row'], ['column'], 'title', {'red': (255, 0, 0)})
    assert full.shape[0] > plain.shape[0] and full.shape[1] > plain.shape[1]


def test_matplotlib_style_is_unchanged():
    before = dict(matplotlib.rcParams)
    side_by_side({'a': flat(1, 2, 3)})
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_side_by_side_with_and_without_titles():
    images = [flat(255, 0, 0), flat(0, 0, 255)]
    assert_picture(side_by_side(dict(zip(('before', 'after'), images)), title='both'))
    assert_picture(side_by_side(images))


def test_images_of_other_shapes_get_white_margins():
    wide = np.full((8, 16, 3), (0, 0, 255), dtype=np.uint8)
    picture = image_grid([[flat(255, 0, 0), wide]])
    column = picture[:, int(0.75 * picture.shape[1])]
    share = (column == [0, 0, 255]).all(axis=1).mean()
    assert 0.4 < share < 0.55 and (column[int(0.9 * len(column))] == 255).all()


def test_invalid_input_is_rejected():
    with pytest.raises(ValueError, match='equally long'):
        image_grid([[flat(1, 1, 1)], []])
    with pytest.raises(ValueError, match='expected 0 or 1 row_titles, got 2'):
        image_grid([[flat(1, 1, 1)]], ['a', 'b'])
    with pytest.raises(ValueError, match=r'uint8 and of shape \(H, W, 3\), got float64'):
        image_grid([[np.zeros((4, 4, 3))]])


def test_colorize_ends_and_constant():
    colors = colorize(np.array([[0.0, 0.5, 1.0, 2.0]]), 0, 1)
    assert colors.shape == (1, 4, 3)
    assert colors[0, 0].tolist() == [68, 1, 84] and colors[0, 2].tolist() == [253, 231, 37]
    assert (colors[0, 3] == colors[0, 2]).all()
    assert len(np.unique(colorize(np.ones((2, 2)), 1, 1))) <= 3


def test_dollar_signs_in_names_are_not_formulas():
    image_grid([[flat(255, 0, 0)]], [r'$\\undefined$ $_^$ 5$ {z}'], title=r'a$\\frac$b$')
