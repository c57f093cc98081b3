"""What the prototypes of the object-aware filter attend to."""
from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from .canvas import (
    INK,
    PANEL,
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


def most_used_prototypes(attention: Tensor, count: int) -> List[int]:
    """Prototypes that most patches attend to most.

    Args:
        attention (Tensor): Mean over heads, shape (B, h, w, M).
        count (int): How many to return, at most M.

    Returns:
        list: Indices, the most used first.
    """
    prototypes = attention.shape[-1]
    # Uniform attention would make prototype 0 win everywhere; relative to each mean, the
    # prototype that a patch prefers wins.
    relative = attention.flatten(0, 2) / attention.flatten(0, 2).mean(dim=0)  # (B h w, M)
    uses = torch.bincount(relative.argmax(dim=1), minlength=prototypes)
    return uses.argsort(descending=True, stable=True)[:count].tolist()


def top_patches(attention: Tensor, prototype: int, count: int) -> List[Tuple[int, int, int]]:
    """Patches that attend most to a prototype, at most one of each image.

    Args:
        attention (Tensor): Mean over heads, shape (B, h, w, M).
        prototype (int): Which.
        count (int): How many, at most B.

    Returns:
        list: (image, row, column), the strongest first.
    """
    weights = attention[..., prototype].flatten(1)  # (B, h w)
    best, index = weights.max(dim=1)
    order = best.argsort(descending=True, stable=True)[:count].tolist()
    width = attention.shape[2]
    return [(i, index[i].item() // width, index[i].item() % width) for i in order]


def _show_patch(axes: Axes, image: Pixels, place: Tuple[int, int], grid: Sequence[int]) -> None:
    """Show 3 x 3 patches around one, moved into the image at its edge, and frame the one."""
    height, width = image.shape[0] / grid[0], image.shape[1] / grid[1]
    top, left = (min(max(at - 1, 0), max(cells - 3, 0)) for at, cells in zip(place, grid))
    show(axes, check_pixels(image))
    axes.set_xlim(left * width - 0.5, (left + 3) * width - 0.5)
    axes.set_ylim((top + 3) * height - 0.5, top * height - 0.5)
    frame_patch(axes, place, grid, image.shape[:2], thickness=1.0)


def attention_overlay(image: Pixels, weights: np.ndarray, low: float, high: float) -> Pixels:
    """Colours of attention weights (h, w) over the grey image (H, W, 3)."""
    pixels = check_pixels(image)
    heat = resize(colorize(weights, low, high, 'inferno'), pixels.shape[:2], smooth=True)
    grey = pixels.mean(axis=2, keepdims=True)
    return (0.35 * grey + 0.65 * heat).astype(np.uint8)


@styled
def prototype_gallery(images: Sequence[Pixels],
                      attention: Tensor,
                      num_prototypes: int = 8,
                      num_patches: int = 6,
                      num_maps: int = 4,
                      title: Optional[str] = None) -> Pixels:
    """Rows of prototypes: the patches that attend most to each, and maps of attention.

    Shown are the prototypes that most patches prefer. A cut-out has 3 x 3 patches, as
    a prototype has cells, from different images. The maps show the same images in every row,
    scaled from the smallest to the largest weight of that prototype in all images.

    Args:
        images (sequence): B images of one size, uint8 (H, W, 3).
        attention (Tensor): Softmax weights, shape (B, heads, h, w, M), as
            ``CoTAP.prototype_attention`` returns.
        num_prototypes (int): Rows at most. Defaults to 8.
        num_patches (int): Cut-outs in a row, at most. Defaults to 6.
        num_maps (int): Maps in a row, at most. Defaults to 4.
        title (str, optional): Above everything. Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If images and attention differ in number.
    """
    if attention.ndim != 5 or len(images) != len(attention):
        raise ValueError(f'attention must have shape (B, heads, h, w, M) with B={len(images)} '
                         f'images, got {tuple(attention.shape)}')
    weights = attention.float().mean(dim=1).cpu()  # (B, h, w, M)
    grid = weights.shape[1:3]
    chosen = most_used_prototypes(weights, num_prototypes)
    num_patches, num_maps = min(num_patches, len(images)), min(num_maps, len(images))
    # A narrow empty column parts the two halves.
    figure = new_figure((num_patches + num_maps + 0.2) * 0.66 * PANEL + 1.0,
                        (len(chosen) + 1) * 0.66 * PANEL + 0.6)
    axes = figure.subplots(
        len(chosen) + 1, num_patches + 1 + num_maps, squeeze=False,
        width_ratios=[1] * num_patches + [0.2] + [1] * num_maps)
    maps = axes[:, num_patches + 1:]
    for c in range(num_maps):
        show(maps[0][c], check_pixels(images[c]))
    for cell in [*axes[0, :num_patches + 1], *axes[:, num_patches]]:
        cell.axis('off')
    for r, prototype in enumerate(chosen, start=1):
        for c, (i, *place) in enumerate(top_patches(weights, prototype, num_patches)):
            _show_patch(axes[r][c], images[i], (place[0], place[1]), grid)
        own = weights[..., prototype].numpy()
        for c in range(num_maps):
            show(maps[r][c], attention_overlay(images[c], own[c], own.min(), own.max()))
        axes[r][0].set_ylabel(f'prototype {prototype}', rotation=0, ha='right', va='center',
                              labelpad=6, color=INK)
    axes[1][(num_patches - 1) // 2].set_title('strongest patches, framed, with what is around')
    maps[0][(num_maps - 1) // 2].set_title('attention on the same images')
    if title:
        figure.suptitle(title)
    return render(figure)
