"""Matplotlib figures as arrays; no display, no global figure list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

DPI = 110
PANEL = 1.55  # inches a panel
INK = '#1f2933'
FAINT = '#7b8794'
# Okabe and Ito's palette: told apart with any common colour blindness.
SERIES = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
BOXES = ('#d55e00', '#0072b2', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
STYLE: dict[str, Any] = {
    'font.size': 9,
    'axes.titlesize': 9,
    'axes.edgecolor': '#cbd2d9',
    'axes.labelcolor': FAINT,
    'axes.titlecolor': INK,
    'axes.grid': False,
    'figure.titlesize': 11.5,
    'figure.titleweight': 'bold',
    'text.color': INK,
    'text.parse_math': False,  # names of files and classes hold dollar signs
    'xtick.color': FAINT,
    'ytick.color': FAINT,
    'xtick.labelsize': 8,
    'ytick.labelsize': 8,
}
#: Every drawing function runs in this style and leaves matplotlib's own untouched.
styled = matplotlib.rc_context(STYLE)
Pixels = np.ndarray


def new_figure(width: float, height: float) -> Figure:
    """A white figure of ``width`` x ``height`` inches that keeps its parts from overlapping."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor='white', layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure) -> Pixels:
    """Draw a figure of :func:`new_figure` into uint8 RGB, shape (H, W, 3)."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save_png(pixels: Pixels, path: Union[str, Path]) -> None:
    """Write uint8 RGB pixels (H, W, 3); the folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(check_pixels(pixels)).save(path)


def check_pixels(image: Any, name: str = 'image') -> Pixels:
    """Return uint8 RGB pixels (H, W, 3) from such an array or tensor.

    Raises:
        ValueError: If shape or type differ.
    """
    pixels = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f'{name} must be uint8 and of shape (H, W, 3), got {pixels.dtype} {pixels.shape}'
        )
    return pixels


def resize(pixels: Pixels, size: tuple[int, int], smooth: bool = False) -> Pixels:
    """Resize uint8 pixels (H, W, 3) or (H, W) to (height, width); square cells unless smooth."""
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), method))


def colorize(values: np.ndarray, low: float, high: float, colormap: str = 'viridis') -> Pixels:
    """Colours of numbers, with a colour map that the colour-blind can read.

    Args:
        values (np.ndarray): Shape (H, W).
        low (float): Value at the dark end.
        high (float): Value at the bright end; the same as ``low`` gives one colour.
        colormap (str): A matplotlib name. Defaults to 'viridis'.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    scaled = (np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-12)
    return (
        (matplotlib.colormaps[colormap](scaled.clip(0, 1))[..., :3] * 255).round().astype(np.uint8)
    )


def show(axes: Axes, image: Pixels, title: Optional[str] = None) -> None:
    """Show pixels without ticks or frame."""
    axes.imshow(image, interpolation='nearest')
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title)


def frame_patch(
    axes: Axes,
    patch: Sequence[int],
    grid: Sequence[int],
    size: Sequence[int],
    thickness: float = 1.4,
    ring: Optional[float] = None,
) -> None:
    """Frame one patch of a shown image, in white on black: visible on any ground.

    Args:
        axes (Axes): Shows the image.
        patch (sequence): (row, column).
        grid (sequence): Number of patches (h, w).
        size (sequence): Pixels (H, W) of the image.
        thickness (float): Of the line, in points. Defaults to 1.4.
        ring (float, optional): Diameter in points of a ring around it, for pictures where a
            patch is too small to be found.
    """
    height, width = size[0] / grid[0], size[1] / grid[1]
    corner = (patch[1] * width - 0.5, patch[0] * height - 0.5)
    for color, line in (('black', thickness + 1.8), ('white', thickness)):
        axes.add_patch(Rectangle(corner, width, height, fill=False, ec=color, lw=line))
        if ring:
            axes.plot(
                corner[0] + width / 2,
                corner[1] + height / 2,
                'o',
                mfc='none',
                mec=color,
                ms=ring,
                mew=line,
            )


def add_legend(figure: Figure, names: Sequence[str], colors: Sequence[Any]) -> None:
    """Colour patches with names, below everything else.

    Args:
        figure (Figure): Where to.
        names (sequence): One text for each colour.
        colors (sequence): Matplotlib colours, or RGB triples 0-255.
    """
    fit = max(1, int(figure.get_figwidth() / 1.15))
    columns = -(-len(names) // -(-len(names) // fit))  # rows of equal length
    handles = [
        Patch(facecolor=color if isinstance(color, str) else [c / 255 for c in color], label=name)
        for name, color in zip(names, colors)
    ]
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        handlelength=1.2,
        handleheight=1.1,
        columnspacing=1.4,
    )


@styled
def image_grid(
    rows: Sequence[Sequence[Any]],
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    title: Optional[str] = None,
    legend: Optional[dict[str, Any]] = None,
) -> Pixels:
    """Images in rows and columns, for instance before and after side by side.

    Args:
        rows (sequence): Rows of uint8 images (H, W, 3); None leaves a cell empty. All
            rows have the same length.
        row_titles (sequence): A text at the left of each row. Defaults to ().
        column_titles (sequence): A text above each column. Defaults to ().
        title (str, optional): Above everything. Defaults to None.
        legend (dict, optional): Name -> colour, below everything. Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If there is no image, or the rows or titles differ in number.
    """
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f'rows must be equally long and not empty, got lengths {lengths}')
    for name, titles, wanted in (
        ('row', row_titles, len(rows)),
        ('column', column_titles, lengths[0]),
    ):
        if len(titles) not in (0, wanted):
            raise ValueError(f'expected 0 or {wanted} {name}_titles, got {len(titles)}')
    first = next(image for row in rows for image in row if image is not None)
    aspect = check_pixels(first).shape[0] / first.shape[1]
    left = 1.0 if row_titles else 0.0
    figure = new_figure(
        lengths[0] * PANEL + left,
        len(rows) * (PANEL * aspect + 0.06)
        + (0.35 if title else 0)
        + (0.25 if column_titles else 0)
        + _legend_height(legend, lengths[0]),
    )
    grid: list[list[Axes]] = figure.subplots(len(rows), lengths[0], squeeze=False)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            if image is None:
                grid[r][c].axis('off')
                continue
            show(
                grid[r][c],
                check_pixels(image),
                column_titles[c] if column_titles and r == 0 else None,
            )
        if row_titles:
            grid[r][0].set_ylabel(
                row_titles[r], rotation=0, ha='right', va='center', color=INK, labelpad=8
            )
    if title:
        figure.suptitle(title)
    if legend:
        add_legend(figure, list(legend), list(legend.values()))
    return render(figure)


def _legend_height(legend: Optional[dict[str, Any]], columns: int) -> float:
    if not legend:
        return 0.0
    fit = max(1, int(columns * PANEL / 1.15))
    return 0.15 + 0.2 * -(-len(legend) // fit)


def side_by_side(
    images: Union[dict[str, Any], Sequence[Any]], title: Optional[str] = None
) -> Pixels:
    """Images next to each other, such as before and after.

    Args:
        images (dict | sequence): Title -> uint8 image (H, W, 3), or images without titles.
        title (str, optional): Above everything. Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    titles = list(images) if isinstance(images, dict) else ()
    values = list(images.values()) if isinstance(images, dict) else list(images)
    return image_grid([values], column_titles=titles, title=title)
