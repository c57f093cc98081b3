"""A sheet of pictures: one column for each image, rows with titles and colour scales."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import INK, Pixels, add_legend, check_pixels, new_figure, render, styled

SHEET_DPI = 150  # a report shows a sheet at about two thirds of its pixels
WIDTH = 10.0  # inches at most
RIGHT, GAP = 0.75, 0.06  # inches for colour bars, between panels
LETTER, SMALL_LETTER = 0.075, 0.064  # inches a letter of a row title and of a column title
WIDEST_PANEL = 2.9
MAX_COLUMNS = 6


class Panel(NamedTuple):
    """A picture and what is drawn on it.

    Attributes:
        image (np.ndarray): uint8, shape (H, W, 3), or one pixel for each patch (h, w, 3).
        draw (callable, optional): Draws on the axes, in pixels of the sheet's first image.
    """

    image: Pixels
    draw: Optional[Callable[[Axes], None]] = None


class Scale(NamedTuple):
    """What the colours of a row mean: from ``low`` to ``high``, in words."""

    low: float
    high: float
    colormap: str
    label: str


class Row(NamedTuple):
    """A row of a sheet; None leaves a cell empty."""

    title: str
    panels: Sequence[Union[Pixels, Panel, None]]
    scale: Optional[Scale] = None


@styled
def picture_sheet(
    rows: Sequence[Row],
    column_titles: Sequence[str] = (),
    legend: Optional[dict[str, Any]] = None,
    max_columns: int = MAX_COLUMNS,
) -> Pixels:
    """Draw rows of pictures, all in the shape of the first one.

    More than ``max_columns`` columns are continued below, so that panels stay readable.

    Args:
        rows (sequence): Equally long rows. Smaller images are enlarged in square cells.
        column_titles (sequence): A text above each column. Defaults to ().
        legend (dict, optional): Name -> colour, below everything. Defaults to None.
        max_columns (int): Columns beside each other. Defaults to 6.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If there is no picture, or rows or titles differ in length.
    """
    lengths = sorted({len(row.panels) for row in rows})
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f'rows must be equally long and not empty, got lengths {lengths}')
    if len(column_titles) not in (0, lengths[0]):
        raise ValueError(f'expected 0 or {lengths[0]} column_titles, got {len(column_titles)}')
    blocks = _blocks(rows, column_titles, max_columns)
    first = next(_panel(cell) for row in rows for cell in row.panels if cell is not None)
    size = check_pixels(first.image).shape[:2]
    columns = min(lengths[0], max_columns)
    left = title_width([row.title for row in rows])
    right = RIGHT if any(row.scale for row in rows) else 0.05
    width = min(WIDEST_PANEL, (WIDTH - left - right) / columns)  # inches
    height = (width - GAP) * size[0] / size[1]
    fit = int((width - GAP) / SMALL_LETTER)
    blocks = [(members, [wrap_title(title, fit) for title in titles]) for members, titles in blocks]
    above = [_title_height(titles) for _, titles in blocks]
    below = _legend_height(legend, left + columns * width + right)
    total = sum(above) + len(blocks) * len(rows) * (height + GAP) + below
    figure = new_figure(left + columns * width + right, total)
    figure.set_dpi(SHEET_DPI)
    figure.set_layout_engine('none')  # every panel has its place
    top = total
    for (members, titles), title_height in zip(blocks, above):
        top -= title_height
        for index, row in enumerate(members):
            box = (left, top - height, width, height)
            _draw_row(figure, row, box, size, titles if index == 0 else ())
            top -= height + GAP
    if legend:
        add_legend(figure, list(legend), list(legend.values()))
    return render(figure)


def _blocks(
    rows: Sequence[Row], titles: Sequence[str], columns: int
) -> list[tuple[list[Row], Sequence[str]]]:
    """Parts of at most ``columns`` columns, the last filled up with empty cells."""
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
    """Draw panels, title and colour bar of a row.

    Args:
        figure (Figure): Where to.
        row (Row): What.
        box (tuple): Left, bottom, width and height of the first panel, in inches.
        size (tuple): Pixels (H, W) that all panels stand for.
        titles (sequence): Above the panels, or ().
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
    """Draw a colour bar at ``left`` over ``span``, its bottom and height, in inches."""
    bar = axes_at(figure, left, span[0], 0.09, span[1])
    mapping = ScalarMappable(Normalize(scale.low, scale.high), scale.colormap)
    figure.colorbar(mapping, cax=bar, label=scale.label)
    bar.tick_params(labelsize=7, length=2)
    bar.yaxis.label.set_size(7.5)
    bar.yaxis.set_label_coords(5.4, 0.5)  # in one line, however wide the numbers are
    bar.yaxis.set_major_locator(MaxNLocator(4, prune=None))


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, bottom / high, width / wide, height / high))


def title_width(titles: Sequence[str]) -> float:
    """Inches that row titles need at the left."""
    longest = max(
        (len(line) for title in titles for line in wrap_title(title).split('\n')), default=0
    )
    return 0.16 + LETTER * longest if longest else 0.05


def write_row_title(figure: Figure, title: str, left: float, middle: float) -> None:
    """Write a title that ends at ``left``, around the height ``middle``, in inches."""
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
