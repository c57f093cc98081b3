"""Save figures as PNG or SVG, with the command that makes them in the file."""

from __future__ import annotations

import io
from typing import Optional

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from PIL.PngImagePlugin import PngInfo

from cotap_mm.visualization.figures.canvas import (
    FAINT,
    INK,
    SERIES,
    Pixels,
    check_pixels,
    render,
    styled,
)

FORMATS = ('png', 'svg')


def encode_png(image: Pixels, command: str = '', num_colors: Optional[int] = None) -> bytes:
    """Encode uint8 pixels (H, W, 3) as a PNG file.

    Args:
        image (np.ndarray): uint8, shape (H, W, 3).
        command (str): Command that makes the picture, stored as the text ``Command``.
            Defaults to '' (nothing is stored).
        num_colors (int, optional): Reduce the picture to so many colors, at most 240, with
            dithering: half the size for one with photographs. Defaults to None (all colors).

    Returns:
        bytes: The file.
    """
    stream, info = io.BytesIO(), PngInfo()
    if command:
        info.add_itxt('Command', command)
    picture = Image.fromarray(check_pixels(image))
    if num_colors is not None:
        picture = _reduce_colors(picture, num_colors)
    picture.save(stream, 'PNG', optimize=True, pnginfo=info)
    return stream.getvalue()


@styled
def encode_figure(figure: Figure, kind: str, command: str = '') -> bytes:
    """Encode a figure.

    Args:
        figure (Figure): From a function such as :func:`sheet_figure`.
        kind (str): ``'png'`` or ``'svg'``. In an SVG, text stays text and can be edited.
        command (str): Command that makes the figure, stored as the text ``Command`` of a PNG
            or the description of an SVG. Defaults to ''.

    Returns:
        bytes: The file; the same figure gives the same bytes.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind not in FORMATS:
        raise ValueError(f'kind must be one of {", ".join(FORMATS)}, got {kind!r}')
    if kind == 'png':
        return encode_png(render(figure), command)
    stream = io.BytesIO()
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'cotap_mm'}):
        metadata = {'Date': None, 'Creator': 'cotap_mm', 'Description': command or None}
        figure.savefig(stream, format='svg', metadata=metadata)
    return stream.getvalue()


def _reduce_colors(picture: Image.Image, count: int) -> Image.Image:
    """Convert to a palette of ``count`` colors besides those of texts, lines and background."""
    adaptive = picture.quantize(count, method=Image.Quantize.MEDIANCUT).getpalette() or []
    names = ('#ffffff', '#000000', INK, FAINT, *SERIES)
    fixed = [value for name in names for value in ImageColor.getrgb(name)]
    palette = Image.new('P', (1, 1))
    palette.putpalette([*fixed, *adaptive[: 3 * count]])
    reduced = np.array(picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    pixels = np.asarray(picture)
    for index, name in enumerate(names):  # a similar color may be found first
        reduced[(pixels == ImageColor.getrgb(name)).all(axis=2)] = index
    result = Image.fromarray(reduced)
    result.putpalette(palette.getpalette() or [])
    return result
