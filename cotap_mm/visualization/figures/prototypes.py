"""Draw what the prototypes of the object-aware filter attend to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cotap_mm.ops.sampling import evenly_spaced

from .canvas import (
    INK,
    Pixels,
    check_pixels,
    colorize,
    frame_patch,
    new_figure,
    render,
    resize,
    show,
    styled,
)
from .grid import GAP, SHEET_DPI, axes_at, title_width, write_row_title

CELL = 0.85  # inches
SIMILAR = 0.8  # correlation of attention maps that look the same


def most_used_prototypes(attention: Tensor, count: int) -> list[int]:
    """Select the prototypes that the most patches prefer.

    Args:
        attention (Tensor): Mean over heads, shape (B, h, w, M).
        count (int): Number of prototypes to return, at most M.

    Returns:
        list: Indices, the most used first.
    """
    prototypes = attention.shape[-1]
    # Weights are divided by the mean of each prototype: otherwise a prototype that is slightly
    # stronger everywhere would win for all patches.
    relative = attention.flatten(0, 2) / attention.flatten(0, 2).mean(dim=0)  # (B h w, M)
    uses = torch.bincount(relative.argmax(dim=1), minlength=prototypes)
    return uses.argsort(descending=True, stable=True)[:count].tolist()


def distinct_prototypes(
    attention: Tensor, count: int, similar: float = SIMILAR
) -> list[tuple[int, list[int]]]:
    """Select prototypes that the most patches prefer and whose maps differ.

    With more prototypes than kinds of patches, several learn the same: of prototypes whose
    attention maps correlate, only the most used one is selected.

    Args:
        attention (Tensor): Mean over heads, shape (B, h, w, M).
        count (int): Maximum number of prototypes to return.
        similar (float): Correlation of two maps above which they count as the same.
            Defaults to 0.8.

    Returns:
        list: Index of each selected prototype, and the indices of those that it stands for.
    """
    rows = attention.flatten(0, 2).double()
    rows = F.normalize(rows - rows.mean(dim=0), dim=0)  # (B h w, M)
    correlation = rows.T @ rows
    groups: dict[int, list[int]] = {}
    for prototype in most_used_prototypes(attention, attention.shape[-1]):
        for first, members in groups.items():
            if correlation[first, prototype] > similar:
                members.append(prototype)
                break
        else:
            groups[prototype] = []
    return [(first, sorted(members)) for first, members in groups.items()][:count]


def top_patches(attention: Tensor, prototype: int, count: int) -> list[tuple[int, int, int]]:
    """Select the patches that attend most to a prototype, at most one per image.

    Args:
        attention (Tensor): Mean over heads, shape (B, h, w, M).
        prototype (int): Index of the prototype.
        count (int): Number of patches to return, at most B.

    Returns:
        list: (image, row, column), the strongest first.
    """
    weights = attention[..., prototype].flatten(1)  # (B, h w)
    best, index = weights.max(dim=1)
    order = best.argsort(descending=True, stable=True)[:count].tolist()
    width = attention.shape[2]
    return [(i, index[i].item() // width, index[i].item() % width) for i in order]


def _show_patch(axes: Axes, image: Pixels, patch: tuple[int, int], grid: Sequence[int]) -> None:
    """Show the 3 x 3 patches around a patch, shifted into the image, and frame the patch."""
    height, width = image.shape[0] / grid[0], image.shape[1] / grid[1]
    top, left = (min(max(at - 1, 0), max(cells - 3, 0)) for at, cells in zip(patch, grid))
    show(axes, check_pixels(image))
    axes.set_xlim(left * width - 0.5, (left + 3) * width - 0.5)
    axes.set_ylim((top + 3) * height - 0.5, top * height - 0.5)
    frame_patch(axes, patch, grid, image.shape[:2], thickness=1.0)


def attention_overlay(image: Pixels, weights: np.ndarray, low: float, high: float) -> Pixels:
    """Blend a heat map of attention weights (h, w) with the gray image (H, W, 3)."""
    pixels = check_pixels(image)
    heat = resize(colorize(weights, low, high, 'inferno'), pixels.shape[:2], smooth=True)
    gray = pixels.mean(axis=2, keepdims=True)
    return (0.35 * gray + 0.65 * heat).astype(np.uint8)


def prototype_gallery(
    images: Sequence[Pixels],
    attention: Tensor,
    num_prototypes: int = 8,
    num_patches: int = 6,
    num_maps: int = 4,
    title: Optional[str] = None,
) -> Pixels:
    """Draw the patches and maps of prototypes; see :func:`prototype_figure`.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If images and attention differ in number.
    """
    figure = prototype_figure(images, attention, num_prototypes, num_patches, num_maps, title)
    return render(figure)


@styled
def prototype_figure(
    images: Sequence[Pixels],
    attention: Tensor,
    num_prototypes: int = 8,
    num_patches: int = 6,
    num_maps: int = 4,
    title: Optional[str] = None,
) -> Figure:
    """Draw a row per prototype: the patches that attend most to it, and attention maps.

    The rows are the prototypes that the most patches prefer, without those whose maps look like
    that of a row above: these are named below its title. A cutout has 3 x 3 patches, as a
    prototype has cells; the cutouts of a row are from different images. The maps show the same
    evenly spaced images in every row, scaled from the smallest to the largest weight of the
    prototype over all images.

    Args:
        images (sequence): B images of one size, uint8 (H, W, 3).
        attention (Tensor): Softmax weights, shape (B, heads, h, w, M), as
            ``CoTAP.prototype_attention`` returns.
        num_prototypes (int): Maximum number of rows. Defaults to 8.
        num_patches (int): Maximum number of cutouts in a row. Defaults to 6.
        num_maps (int): Maximum number of maps in a row. Defaults to 4.
        title (str, optional): Text above the figure. Defaults to None.

    Returns:
        Figure: To be rendered or saved in any format.

    Raises:
        ValueError: If images and attention differ in number.
    """
    if attention.ndim != 5 or len(images) != len(attention):
        raise ValueError(
            f'attention must have shape (B, heads, h, w, M) with B={len(images)} '
            f'images, got {tuple(attention.shape)}'
        )
    weights = attention.float().mean(dim=1).cpu()  # (B, h, w, M)
    grid = weights.shape[1:3]
    chosen = distinct_prototypes(weights, num_prototypes)
    shown = evenly_spaced(len(images), num_maps)
    num_patches = min(num_patches, len(images))
    high, wide = check_pixels(images[0]).shape[:2]
    # Cutouts and maps have the same height; a gap separates the two halves.
    right = title_width(['also 00, 00, …']) + num_patches * CELL + 0.15
    width = CELL * wide / high
    above = 0.3 if not title else 0.55
    total = above + (len(chosen) + 1) * CELL
    figure = new_figure(right + len(shown) * width, total)
    figure.set_dpi(SHEET_DPI)
    figure.set_layout_engine('none')
    left = title_width(['also 00, 00, …'])
    bottom = total - above - CELL
    for c, i in enumerate(shown):
        _add(figure, images[i], right + c * width, bottom, width)
    _write(figure, 'attention to the prototype, same images in every row', right, bottom + CELL)
    _write(figure, 'patches with the most attention to it (framed)', left, bottom)
    for prototype, alike in chosen:
        bottom -= CELL
        also = f'\nalso {_few(alike)}' if alike else ''
        write_row_title(figure, f'prototype {prototype}{also}', left, bottom + CELL / 2)
        for c, (i, row, column) in enumerate(top_patches(weights, prototype, num_patches)):
            axes = axes_at(figure, left + c * CELL, bottom, CELL - GAP, CELL - GAP)
            _show_patch(axes, images[i], (row, column), grid)
        own = weights[..., prototype].numpy()
        for c, i in enumerate(shown):
            overlay = attention_overlay(images[i], own[i], own.min(), own.max())
            _add(figure, overlay, right + c * width, bottom, width)
    if title:
        figure.suptitle(title)
    return figure


def _few(numbers: Sequence[int]) -> str:
    """Write the first numbers of a list."""
    return ', '.join(map(str, numbers[:2])) + (', …' if len(numbers) > 2 else '')


def _add(figure: Figure, image: Pixels, left: float, bottom: float, width: float) -> None:
    axes = axes_at(figure, left, bottom, width - GAP, CELL - GAP)
    axes.imshow(image, interpolation='antialiased', aspect='auto')
    axes.axis('off')


def _write(figure: Figure, text: str, left: float, bottom: float) -> None:
    wide, high = figure.get_size_inches()
    figure.text(left / wide, bottom / high, text, va='bottom', color=INK, fontsize=8.5)
