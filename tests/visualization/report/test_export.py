from __future__ import annotations

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cotap_mm.visualization.figures.canvas import SERIES, new_figure
from cotap_mm.visualization.report.export import encode_figure, encode_png

COMMAND = 'cotap visualize "ä & <b>" --images DIR'


def noise(side=120):
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def opened(data):
    return Image.open(io.BytesIO(data))


def test_png_is_lossless_and_has_its_command():
    image = opened(encode_png(noise(), COMMAND))
    assert (np.asarray(image) == noise()).all() and image.info['Command'] == COMMAND
    assert 'Command' not in opened(encode_png(noise())).info


def test_fewer_colors_keep_white_and_the_colors_of_texts():
    pixels = noise()
    pixels[:40] = 255
    pixels[40:50] = tuple(int(SERIES[1][i : i + 2], 16) for i in (1, 3, 5))
    data = encode_png(pixels, COMMAND, num_colors=100)
    image = opened(data)
    shown = np.asarray(image.convert('RGB'))
    assert (shown[:39] == 255).all() and (shown[42:48] == pixels[42:48]).all()
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) <= 110 and image.info['Command'] == COMMAND
    assert len(data) < 0.5 * len(encode_png(pixels))
    blocks = [part[60:].reshape(6, 10, 12, 10, 3).mean(axis=(1, 3)) for part in (shown, pixels)]
    assert np.abs(blocks[0] - blocks[1]).mean() < 4  # dithering keeps mean colors


def test_figures_as_png_and_svg():
    figure = new_figure(2, 1)
    figure.text(0.5, 0.5, 'cosine')
    svg = encode_figure(figure, 'svg', COMMAND)
    assert svg == encode_figure(figure, 'svg', COMMAND)
    text = list(ElementTree.fromstring(svg).itertext())
    assert any(COMMAND in part for part in text) and any('cosine' in part for part in text)
    png = opened(encode_figure(figure, 'png', COMMAND))
    assert png.size == (220, 110) and png.info['Command'] == COMMAND
    with pytest.raises(ValueError, match="one of png, svg, got 'pdf'"):
        encode_figure(figure, 'pdf')
