"""One picture that compares networks: similarity, components and retrieval for chosen patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .canvas import FAINT, INK, SERIES, Pixels, check_pixels, colorize, new_figure, styled
from .grid import axes_at

WIDTH, DPI = 10.0, 160  # inches, pixels per inch
MARGIN, GAP = 0.12, 0.07  # inches: around everything, between panels
NAME = 0.34  # inches for the names of the networks, which are written upwards
HEAD, BETWEEN = 0.62, 0.2  # inches for the titles, between two queries
ROWS, COLUMNS = 2, 3  # of retrieved patches in a panel
COUNT = ROWS * COLUMNS


class Cutout(NamedTuple):
    """Square part of an image around a patch.

    Attributes:
        pixels (np.ndarray): uint8, shape (S, S, 3).
        box (tuple): Left, top, width and height of the patch, as shares of the side.
    """

    pixels: Pixels
    box: tuple[float, float, float, float]


class NetworkView(NamedTuple):
    """What one network says about a query.

    Attributes:
        similarity (np.ndarray): Cosine of every patch of the image to the query, (h, w).
        components (np.ndarray): Principal components as colors, uint8, (h, w, 3).
        retrieved (list): Cutouts, the most similar first; the first six are shown.
    """

    similarity: np.ndarray
    components: Pixels
    retrieved: Sequence[Cutout]


class Query(NamedTuple):
    """An image with a chosen patch, and what each network says about it.

    Attributes:
        image (np.ndarray): uint8, shape (H, W, 3).
        box (tuple): Left, top, width and height of the patch, as shares of the image's sides.
        zoom (Cutout): The surroundings of the patch.
        networks (dict): Name of each network -> its view.
    """

    image: Pixels
    box: tuple[float, float, float, float]
    zoom: Cutout
    networks: dict[str, NetworkView]


@styled
def overview_figure(queries: Sequence[Query], subtitles: Sequence[str]) -> Figure:
    """Draw a block for each query, with one row per network.

    Columns: the photograph with the patch framed and its surroundings enlarged below, the
    similarity to the patch, principal components, and the most similar patches of other images.

    Args:
        queries (sequence): At least one; all images have the same shape, and all queries the
            same networks.
        subtitles (sequence): A line below the title of each of the four columns.

    Returns:
        Figure: 1600 pixels wide when rendered.

    Raises:
        ValueError: If there is no query.
    """
    if not queries:
        raise ValueError('an overview needs at least one patch, got none')
    size = check_pixels(queries[0].image).shape[:2]
    names = list(queries[0].networks)
    left = MARGIN + NAME
    width = (WIDTH - left - MARGIN + GAP) / 4
    panel = (width - GAP, (width - GAP) * size[0] / size[1])
    block = len(names) * (panel[1] + GAP) - GAP
    total = HEAD + len(queries) * (block + BETWEEN) - BETWEEN + MARGIN
    figure = new_figure(WIDTH, total)
    figure.set_dpi(DPI)
    figure.set_layout_engine('none')  # panels have fixed positions
    titles = ('Photograph', 'Similarity', 'Principal components', 'Retrieval')
    for column, (title, subtitle) in enumerate(zip(titles, subtitles)):
        _write_head(figure, title, subtitle, left + column * width)
    top = total - HEAD
    for query in queries:
        _draw_photograph(figure, query, left, top, panel)
        for index, (name, view) in enumerate(query.networks.items()):
            bottom = top - panel[1] - index * (panel[1] + GAP)
            _write_name(figure, name, bottom + panel[1] / 2, SERIES[index % len(SERIES)])
            low = float(view.similarity.min())
            heat = _add_picture(
                figure, colorize(view.similarity, low, 1), left + width, bottom, panel
            )
            _frame(heat, query.box)
            _add_picture(figure, view.components, left + 2 * width, bottom, panel)
            _draw_retrieved(figure, view.retrieved, left + 3 * width, bottom, panel)
        top -= block + BETWEEN
    return figure


def _write_head(figure: Figure, title: str, subtitle: str, left: float) -> None:
    wide, high = figure.get_size_inches()
    place = dict(ha='left', va='top')
    figure.text(
        left / wide, 1 - 0.1 / high, title, color=INK, fontsize=11, fontweight='bold', **place
    )
    figure.text(left / wide, 1 - 0.32 / high, subtitle, color=FAINT, fontsize=8.5, **place)


def _write_name(figure: Figure, name: str, middle: float, color: str) -> None:
    wide, high = figure.get_size_inches()
    figure.text(
        (MARGIN + NAME / 2 - 0.02) / wide,
        middle / high,
        name if len(name) <= 18 else f'{name[:17]}…',
        rotation=90,
        ha='center',
        va='center',
        color=color,
        fontsize=11,
        fontweight='bold',
    )


def _draw_photograph(
    figure: Figure, query: Query, left: float, top: float, panel: tuple[float, float]
) -> None:
    """Draw the photograph, and below it the surroundings of the patch if there is room."""
    axes = _add_picture(figure, query.image, left, top - panel[1], panel, smooth=True)
    _frame(axes, query.box)
    if len(query.networks) > 1:
        side = panel[1]
        bottom = top - 2 * panel[1] - GAP
        zoom = _add_picture(figure, query.zoom.pixels, left, bottom, (side, side), smooth=True)
        _frame(zoom, query.zoom.box)
        wide, high = figure.get_size_inches()
        figure.text(
            (left + side + 0.1) / wide,
            (bottom + side / 2) / high,
            'the chosen\npatch',
            color=FAINT,
            fontsize=8.5,
            va='center',
        )


def _draw_retrieved(
    figure: Figure,
    cutouts: Sequence[Cutout],
    left: float,
    bottom: float,
    panel: tuple[float, float],
) -> None:
    gap = 0.04
    side = min((panel[0] - (COLUMNS - 1) * gap) / COLUMNS, (panel[1] - (ROWS - 1) * gap) / ROWS)
    for index, cutout in enumerate(cutouts[:COUNT]):
        row, column = divmod(index, COLUMNS)
        x = left + column * (side + gap)
        y = bottom + panel[1] - side - row * (panel[1] - side)
        axes = _add_picture(figure, cutout.pixels, x, y, (side, side), smooth=True)
        _frame(axes, cutout.box, 0.9)


def _add_picture(
    figure: Figure,
    pixels: Pixels,
    left: float,
    bottom: float,
    panel: tuple[float, float],
    smooth: bool = False,
) -> Axes:
    """Add a picture whose axes run from 0 to 1, from the top left corner."""
    axes = axes_at(figure, left, bottom, *panel)
    axes.imshow(
        pixels,
        interpolation='bicubic' if smooth else 'nearest',
        aspect='auto',
        extent=(0, 1, 1, 0),
    )
    axes.axis('off')
    return axes


def _frame(axes: Axes, box: tuple[float, float, float, float], thickness: float = 1.2) -> None:
    """Frame a patch in white on black, visible on any background."""
    for color, line in (('black', thickness + 1.6), ('white', thickness)):
        axes.add_patch(Rectangle(box[:2], *box[2:], fill=False, ec=color, lw=line, clip_on=False))
