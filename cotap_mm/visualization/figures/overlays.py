"""Draw crops, foreground masks and class labels on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from .canvas import BOXES, PANEL, Pixels, check_pixels, new_figure, render, resize, show, styled

IGNORED_COLOR = (190, 190, 190)


@styled
def crops_with_boxes(
    image: Pixels,
    boxes: Any,
    crops: Sequence[Pixels],
    num_global: int = 2,
    title: Optional[str] = None,
) -> Pixels:
    """Draw a source image with the boxes of its crops, next to the crops.

    Args:
        image (np.ndarray): uint8, shape (H, W, 3).
        boxes (Tensor | array): x1, y1, x2, y2 in source pixels, shape (V, 4).
        crops (sequence): V crops, uint8 (H, W, 3), global crops first.
        num_global (int): Number of global crops. Defaults to 2.
        title (str, optional): Text above the figure. Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If the numbers of boxes and crops differ.
    """
    boxes = np.asarray(boxes, dtype=float)
    if boxes.shape != (len(crops), 4):
        raise ValueError(
            f'{len(crops)} crops need boxes of shape ({len(crops)}, 4), got {boxes.shape}'
        )
    columns = -(-len(crops) // 2)
    # As high as two crops; very wide or narrow images are shown smaller instead.
    wide = 2 * min(max(image.shape[1] / image.shape[0], 0.7), 1.6)
    figure = new_figure((columns + wide + 0.3) * PANEL, 2 * PANEL + (0.75 if title else 0.4))
    layout = figure.add_gridspec(2, columns + 1, width_ratios=[wide] + [1] * columns)
    source = figure.add_subplot(layout[:, 0])
    show(source, check_pixels(image), 'source image')
    for v, (box, crop) in enumerate(zip(boxes, crops)):
        color = BOXES[v % len(BOXES)]
        kind = f'global {v + 1}' if v < num_global else f'local {v + 1 - num_global}'
        source.add_patch(
            Rectangle(
                box[:2] - 0.5,
                *(box[2:] - box[:2]),
                fill=False,
                ec=color,
                lw=2.4 if v < num_global else 1.6,
                ls='-' if v < num_global else '--',
            )
        )
        axes = figure.add_subplot(layout[v % 2, 1 + v // 2])
        show(axes, check_pixels(crop, f'crop {v}'), kind)
        for spine in axes.spines.values():
            spine.set(visible=True, edgecolor=color, linewidth=2.4)
    source.set_xlim(-0.5, image.shape[1] - 0.5)
    source.set_ylim(image.shape[0] - 0.5, -0.5)
    if title:
        figure.suptitle(title)
    return render(figure)


def foreground_overlay(image: Pixels, mask: Tensor) -> Pixels:
    """Show the foreground of an image in color and dim the background to gray.

    Args:
        image (np.ndarray): uint8, shape (H, W, 3).
        mask (Tensor): Bool mask on any grid, shape (h, w).

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    pixels = check_pixels(image)
    inside = resize(torch.as_tensor(mask).cpu().numpy().astype(np.uint8), pixels.shape[:2]) > 0
    gray = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.3 + 30
    result = np.where(inside[..., None], pixels, gray.astype(np.uint8))
    edge = np.zeros_like(inside)
    edge[1:] |= inside[1:] != inside[:-1]
    edge[:, 1:] |= inside[:, 1:] != inside[:, :-1]
    result[edge] = (230, 159, 0)
    return result


def label_map(label: Any, palette: Sequence[tuple[int, int, int]]) -> Pixels:
    """Map class indices to colors; 255 is gray.

    Args:
        label (Tensor | array): Class indices, shape (H, W).
        palette (sequence): RGB triple 0-255 of each class.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If a label is not in the palette.
    """
    indices = torch.as_tensor(label).cpu().numpy()
    known = indices[indices != 255]
    if known.size and not 0 <= known.min() <= known.max() < len(palette):
        raise ValueError(
            f'labels must be 0..{len(palette) - 1} (the palette) or 255, got '
            f'{known.min()}..{known.max()}'
        )
    colors = np.full((256, 3), IGNORED_COLOR, dtype=np.uint8)
    colors[: len(palette)] = palette
    return colors[indices]


def class_legend(
    labels: Sequence[Any], classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> dict[str, tuple[int, int, int]]:
    """Build a legend of the classes that occur in ``labels``.

    Args:
        labels (sequence): Arrays of class indices of any shape.
        classes (sequence): Name of each class.
        palette (sequence): RGB triple 0-255 of each class.

    Returns:
        dict: Name -> color, in the order of the classes; 255 is named 'ignored'.
    """
    present = np.unique(np.concatenate([np.unique(torch.as_tensor(x).cpu()) for x in labels]))
    legend = {classes[i]: tuple(palette[i]) for i in present if i != 255}
    if 255 in present:
        legend['ignored'] = IGNORED_COLOR
    return legend
