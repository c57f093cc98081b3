from __future__ import annotations

import numpy as np
import pytest

from cotap_mm.visualization import Panel, Row, Scale, picture_sheet
from cotap_mm.visualization.figures.grid import wrap_title


def flat(*color, size=(8, 8)):
    return np.full((*size, 3), color, dtype=np.uint8)


RED, GREEN, BLUE = flat(255, 0, 0), flat(0, 255, 0), flat(0, 0, 255)


def has(picture, color):
    return (np.abs(picture.astype(int) - color).max(axis=2) == 0).any()


def test_each_picture_is_in_its_cell():
    picture = picture_sheet([Row('', [RED, GREEN]), Row('', [BLUE, None])])
    height, width = picture.shape[:2]

    def at(y, x):
        return picture[int(y * height), int(x * width)].tolist()

    assert at(0.3, 0.25) == [255, 0, 0] and at(0.3, 0.75) == [0, 255, 0]
    assert at(0.75, 0.25) == [0, 0, 255] and at(0.75, 0.75) == [255, 255, 255]


def test_many_columns_continue_below():
    pictures = [flat(20 * i, 0, 0) for i in range(5)]
    titles = [str(i) for i in range(5)]
    one = picture_sheet([Row('', pictures[:2])], titles[:2], max_columns=2)
    three = picture_sheet([Row('', pictures)], titles, max_columns=2)
    assert three.shape[1] == one.shape[1] and three.shape[0] > 2.5 * one.shape[0]
    assert all(has(three, [20 * i, 0, 0]) for i in range(5))


def test_small_maps_are_enlarged_in_square_cells():
    cells = np.stack([RED[:1, 0], GREEN[:1, 0]], axis=1)  # (1, 2, 3)
    picture = picture_sheet([Row('', [flat(9, 9, 9, size=(60, 120))]), Row('', [cells])])
    row = picture[int(0.75 * picture.shape[0])]
    counts = [(row == color).all(axis=1).sum() for color in ([255, 0, 0], [0, 255, 0])]
    assert counts[0] > 100 and abs(counts[0] - counts[1]) <= 2


def test_drawing_is_in_pixels_of_the_first_image():
    def draw(axes):
        axes.axvspan(-0.5, 3.5, color=(0, 0, 1), lw=0)  # the left half of 8 pixels

    picture = picture_sheet([Row('', [RED]), Row('', [Panel(GREEN[:2, :2], draw)])])
    row = picture[int(0.75 * picture.shape[0])]
    blue, green = ((row == color).all(axis=1).sum() for color in ([0, 0, 255], [0, 255, 0]))
    assert blue > 100 and abs(int(blue) - int(green)) <= 2


def test_titles_scale_and_legend_take_space():
    plain = picture_sheet([Row('', [RED] * 6)])
    scaled = picture_sheet([Row('name', [RED] * 6, Scale(0, 1, 'viridis', 'cosine'))])
    full = picture_sheet([Row('', [RED] * 6)], ['a'] * 6, {'red': (255, 0, 0)})
    assert scaled.shape[1] == pytest.approx(plain.shape[1], abs=2)  # panels shrink
    assert (scaled == 255).all(axis=2).sum() > (plain == 255).all(axis=2).sum()
    assert full.shape[0] > plain.shape[0]
    bar = scaled[:, -int(0.7 * 150) :]  # right of the panels
    assert (np.abs(bar.astype(int) - [68, 1, 84]).max(axis=2) < 8).any()  # the dark end


def test_invalid_input_is_rejected():
    with pytest.raises(ValueError, match='equally long'):
        picture_sheet([Row('', [RED]), Row('', [])])
    with pytest.raises(ValueError, match='expected 0 or 1 column_titles, got 2'):
        picture_sheet([Row('', [RED])], ['a', 'b'])
    with pytest.raises(ValueError, match='uint8'):
        picture_sheet([Row('', [RED / 255])])


def test_titles_break_after_separators():
    assert wrap_title('mean over heads') == 'mean over heads'
    assert wrap_title('vit_small_patch16_224.dino') == 'vit_small_\npatch16_224.\ndino'
    assert wrap_title('before,\nbackbone') == 'before,\nbackbone'
    assert wrap_title('unbreakablelongname') == 'unbreakablelongname'
