"""Draw grids of pictures with titles and color scales."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import INK, Pixels, add_legend, check_pixels, new_figure, render, styled

SHEET_DPI = 150  # a report shows a sheet at about two thirds of its pixels
WIDTH = 10.0  # maximum, inches
RIGHT, GAP = 0.75, 0.06  # inches for color bars, between panels
TITLE = 0.3  # inches
LETTER, SMALL_LETTER = 0.075, 0.064  # width of a letter in row and column titles, inches
WIDEST_PANEL = 2.9
MAX_COLUMNS = 6


class Panel(NamedTuple):
    """Picture with an optional drawing on top.

    Attributes:
        image (np.ndarray): uint8, shape (H, W, 3), or one pixel for each patch (h, w, 3).
        draw (callable, optional): Draws on the axes, in pixel coordinates of the sheet's first
            image.
    """

    image: Pixels
    draw: Optional[Callable[[Axes], None]] = None


class Scale(NamedTuple):
    """Color scale of a row: range, color map and label of the color bar."""

    low: float
    high: float
    colormap: str
    label: str


class Row(NamedTuple):
    """Row of a sheet; None leaves a cell empty."""

    title: str
    panels: Sequence[Union[Pixels, Panel, None]]
    scale: Optional[Scale] = None


@styled
def picture_sheet(
    rows: Sequence[Row],
    column_titles: Sequence[str] = (),
    legend: Optional[dict[str, Any]] = None,
    max_columns: int = MAX_COLUMNS,
    title: Optional[str] = None,
) -> Pixels:
    """Draw rows of pictures; see :func:`sheet_figure`.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If there is no picture, or rows or titles differ in length.
    """
    return render(sheet_figure(rows, column_titles, legend, max_columns, title))


@styled
def sheet_figure(
    rows: Sequence[Row],
    column_titles: Sequence[str] = (),
    legend: Optional[dict[str, Any]] = None,
    max_columns: int = MAX_COLUMNS,
    title: Optional[str] = None,
) -> Figure:
    """Draw rows of pictures, all stretched to the shape of the first one.

    If there are more than ``max_columns`` columns, the remaining ones continue below, so
    that panels stay readable.

    Args:
        rows (sequence): Rows of equal length. Smaller images are enlarged in square cells.
        column_titles (sequence): A text above each column. Defaults to ().
        legend (dict, optional): Name -> color, below the rows. Defaults to None.
        max_columns (int): Number of columns side by side. Defaults to 6.
        title (str, optional): Text above the sheet. Defaults to None.

    Returns:
        Figure: To be rendered or saved in any format.

    Raises:
        ValueError: If there is no picture, or rows or titles differ in length.
    """
    columns = min(_count_columns(rows, column_titles), max_columns)
    first = next(_panel(cell) for row in rows for cell in row.panels if cell is not None)
    size = check_pixels(first.image).shape[:2]
    left = title_width([row.title for row in rows])
    right = RIGHT if any(row.scale for row in rows) else 0.05
    width = min(WIDEST_PANEL, (WIDTH - left - right) / columns)  # inches
    height = (width - GAP) * size[0] / size[1]
    fit = int((width - GAP) / SMALL_LETTER)
    blocks = [
        (members, [wrap_title(text, fit) for text in titles])
        for members, titles in _blocks(rows, column_titles, max_columns)
    ]
    above = [_title_height(titles) for _, titles in blocks]
    below = _legend_height(legend, left + columns * width + right)
    total = sum(above) + len(blocks) * len(rows) * (height + GAP) + below
    top, total = total, total + (TITLE if title else 0)
    figure = new_figure(left + columns * width + right, total)
    figure.set_dpi(SHEET_DPI)
    figure.set_layout_engine('none')  # panels have fixed positions
    for (members, titles), title_height in zip(blocks, above):
        top -= title_height
        for index, row in enumerate(members):
            box = (left, top - height, width, height)
            _draw_row(figure, row, box, size, titles if index == 0 else ())
            top -= height + GAP
    if title:
        figure.suptitle(title, y=1 - 0.1 / total, va='top')
    if legend:
        add_legend(figure, list(legend), list(legend.values()))
    return figure


def image_grid(
    rows: Sequence[Sequence[Any]],
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    title: Optional[str] = None,
    legend: Optional[dict[str, Any]] = None,
) -> Pixels:
    """Draw images of any shapes in rows and columns; see :func:`picture_sheet`.

    Args:
        rows (sequence): Rows of uint8 images (H, W, 3); None leaves a cell empty. All
            rows have the same length.
        row_titles (sequence): A text to the left of each row. Defaults to ().
        column_titles (sequence): A text above each column. Defaults to ().
        title (str, optional): Text above the grid. Defaults to None.
        legend (dict, optional): Name -> color, below the grid. Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If there is no image, or the rows or titles differ in number.
    """
    if len(row_titles) not in (0, len(rows)):
        raise ValueError(f'expected 0 or {len(rows)} row_titles, got {len(row_titles)}')
    first = next((image for row in rows for image in row if image is not None), None)
    shape = (1, 1) if first is None else check_pixels(first).shape[:2]
    cells = [
        [None if image is None else pad_to_shape(image, shape) for image in row] for row in rows
    ]
    names = row_titles or [''] * len(rows)
    return picture_sheet(list(map(Row, names, cells)), column_titles, legend, title=title)


def side_by_side(
    images: Union[dict[str, Any], Sequence[Any]], title: Optional[str] = None
) -> Pixels:
    """Draw images next to each other, for example before and after.

    Args:
        images (dict | sequence): Title -> uint8 image (H, W, 3), or images without titles.
        title (str, optional): Text above the images. Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    titles = list(images) if isinstance(images, dict) else ()
    values = list(images.values()) if isinstance(images, dict) else list(images)
    return image_grid([values], column_titles=titles, title=title)


def pad_to_shape(image: Any, shape: Sequence[int]) -> Pixels:
    """Add white margins to an image (H, W, 3) until it has the aspect ratio of ``shape``."""
    pixels = check_pixels(image)
    height, width = pixels.shape[:2]
    rows = max(0, round(width * shape[0] / shape[1]) - height)
    columns = max(0, round(height * shape[1] / shape[0]) - width)
    margins = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(pixels, margins, constant_values=255)


def _count_columns(rows: Sequence[Row], column_titles: Sequence[str]) -> int:
    lengths = sorted({len(row.panels) for row in rows})
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f'rows must be equally long and not empty, got lengths {lengths}')
    if len(column_titles) not in (0, lengths[0]):
        raise ValueError(f'expected 0 or {lengths[0]} column_titles, got {len(column_titles)}')
    return lengths[0]


def _blocks(
    rows: Sequence[Row], titles: Sequence[str], columns: int
) -> list[tuple[list[Row], Sequence[str]]]:
    """Split rows into blocks of at most ``columns`` columns."""
    count = len(rows[0].panels)
    blocks = []
    for start in range(0, count, columns):
        stop = start + columns
        members = [row._replace(panels=row.panels[start:stop]) for row in rows]
        blocks.append((members, titles[start:stop]))
    return blocks


def _panel(cell: Union[Pixels, Panel]) -> Panel:
    return cell if isinstance(cell, Panel) else Panel(cell)


def _title_height(titles: Sequence[str]) -> float:
    lines = max((title.count('\n') + 1 for title in titles if title), default=0)
    return 0.1 + 0.15 * lines


def _legend_height(legend: Optional[dict[str, Any]], width: float) -> float:
    if not legend:
        return 0.05
    return 0.15 + 0.2 * -(-len(legend) // max(1, int(width / 1.15)))


def _draw_row(
    figure: Figure,
    row: Row,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    titles: Sequence[str],
) -> None:
    """Draw the panels, title and color bar of a row.

    Args:
        figure (Figure): Figure to draw in.
        row (Row): Row to draw.
        box (tuple): Left, bottom, width and height of the first panel, in inches.
        size (tuple): Size (H, W) of every panel in pixels.
        titles (sequence): Titles above the panels, or ().
    """
    left, bottom, width, height = box
    for column, cell in enumerate(row.panels):
        if cell is None:
            continue
        axes = axes_at(figure, left + column * width, bottom, width - GAP, height)
        panel = _panel(cell)
        axes.imshow(
            check_pixels(panel.image),
            interpolation='antialiased',
            aspect='auto',
            extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5),
        )
        if panel.draw:
            panel.draw(axes)
        axes.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
        axes.axis('off')
        if titles and titles[column]:
            axes.set_title(titles[column], fontsize=7.5, pad=3)
    write_row_title(figure, row.title, left, bottom + height / 2)
    if row.scale:
        _draw_scale(
            figure,
            row.scale,
            left + len(row.panels) * width + 0.02,
            (bottom + 0.06 * height, 0.88 * height),
        )


def _draw_scale(figure: Figure, scale: Scale, left: float, span: tuple[float, float]) -> None:
    """Draw a color bar at ``left``; ``span`` is its bottom and height; all in inches."""
    bar = axes_at(figure, left, span[0], 0.09, span[1])
    mapping = ScalarMappable(Normalize(scale.low, scale.high), scale.colormap)
    figure.colorbar(mapping, cax=bar, label=scale.label)
    bar.tick_params(labelsize=7, length=2)
    bar.yaxis.label.set_size(7.5)
    bar.yaxis.set_label_coords(5.4, 0.5)  # aligned, however wide the numbers are
    bar.yaxis.set_major_locator(MaxNLocator(4, prune=None))


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, bottom / high, width / wide, height / high))


def title_width(titles: Sequence[str]) -> float:
    """Width in inches that row titles need."""
    longest = max(
        (len(line) for title in titles for line in wrap_title(title).split('\n')), default=0
    )
    return 0.16 + LETTER * longest if longest else 0.05


def write_row_title(figure: Figure, title: str, left: float, middle: float) -> None:
    """Write a title that ends at ``left``, centered vertically at ``middle``, in inches."""
    wide, high = figure.get_size_inches()
    figure.text(
        (left - 0.08) / wide,
        middle / high,
        wrap_title(title),
        ha='right',
        va='center',
        color=INK,
        fontsize=8.5,
    )


def wrap_title(text: str, width: int = 15) -> str:
    """Break a title into lines of about ``width`` letters, after spaces and ``_ . / -``."""
    lines = []
    for line in text.split('\n'):
        current = ''
        for piece in re.split(r'(?<=[ _./-])', line):
            if current and len(current) + len(piece.rstrip()) > width:
                lines.append(current.rstrip())
                current = ''
            current += piece
        lines.append(current.rstrip())
    return '\n'.join(lines)
