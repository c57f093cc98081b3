"""Draw Matplotlib figures into arrays, without a display or global state."""

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
PANEL = 1.55  # width of a panel in inches
INK = '#1f2933'
FAINT = '#7b8794'
# Okabe and Ito's palette: distinguishable with any common form of color blindness.
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
    'text.parse_math': False,  # names of files and classes may contain dollar signs
    'xtick.color': FAINT,
    'ytick.color': FAINT,
    'xtick.labelsize': 8,
    'ytick.labelsize': 8,
}
#: Decorator of the drawing functions: applies the style and leaves Matplotlib's own untouched.
styled = matplotlib.rc_context(STYLE)
Pixels = np.ndarray


def new_figure(width: float, height: float) -> Figure:
    """Create a white figure of ``width`` x ``height`` inches with constrained layout."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor='white', layout='constrained')
    FigureCanvasAgg(figure)
    return figure


@styled
def render(figure: Figure) -> Pixels:
    """Render a figure of :func:`new_figure` to uint8 RGB, shape (H, W, 3)."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save_png(pixels: Pixels, path: Union[str, Path]) -> None:
    """Write uint8 RGB pixels (H, W, 3) and create the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(check_pixels(pixels)).save(path)


def check_pixels(image: Any, name: str = 'image') -> Pixels:
    """Check that an array or tensor holds uint8 RGB pixels and return them, shape (H, W, 3).

    Raises:
        ValueError: If the shape or dtype is wrong.
    """
    pixels = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f'{name} must be uint8 and of shape (H, W, 3), got {pixels.dtype} {pixels.shape}'
        )
    return pixels


def resize(pixels: Pixels, size: tuple[int, int], smooth: bool = False) -> Pixels:
    """Resize uint8 pixels (H, W, 3) or (H, W) to (height, width).

    The interpolation is bicubic if ``smooth``, otherwise nearest.
    """
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), method))


def colorize(values: np.ndarray, low: float, high: float, colormap: str = 'viridis') -> Pixels:
    """Map numbers to colors, with a color map that color-blind readers can read.

    Args:
        values (np.ndarray): Shape (H, W).
        low (float): Value at the dark end.
        high (float): Value at the bright end. If it equals ``low``, all colors are the same.
        colormap (str): Name of a Matplotlib color map. Defaults to 'viridis'.

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
    """Frame one patch of an image in white on black, visible on any background.

    Args:
        axes (Axes): Axes that show the image.
        patch (sequence): (row, column).
        grid (sequence): Number of patches (h, w).
        size (sequence): Size (H, W) of the image in pixels.
        thickness (float): Line width in points. Defaults to 1.4.
        ring (float, optional): Diameter in points of a ring around the patch, for figures
            where a patch is too small to be noticed. Defaults to None (no ring).
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
    """Add a legend of color patches below the figure.

    Args:
        figure (Figure): Figure to add the legend to.
        names (sequence): One text for each color.
        colors (sequence): Matplotlib colors, or RGB triples 0-255.
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
