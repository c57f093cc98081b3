"""Cosine similarity of one patch to the patches of the same and of other images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import Pixels, check_pixels, colorize, frame_patch, resize
from .grid import Panel, Row, Scale, pad_to_shape, picture_sheet


def similarity_map(
    patches: Tensor,
    patch: tuple[int, int],
    other: Optional[Tensor] = None,
    normalized: bool = False,
) -> np.ndarray:
    """Compute the cosine of one patch to every patch of the same or of another image.

    Args:
        patches (Tensor): Features of the image, shape (C, h, w).
        patch (tuple): (row, column) of the chosen patch.
        other (Tensor, optional): Features of another image, shape (C, h2, w2). Defaults
            to None (the same image).
        normalized (bool): The features have unit length already: use them as they are, in
            their own precision. Defaults to False.

    Returns:
        np.ndarray: float, shape (h, w) or (h2, w2), in [-1, 1].

    Raises:
        ValueError: If the patch is outside the grid.
    """
    rows, columns = patches.shape[1:]
    if not (0 <= patch[0] < rows and 0 <= patch[1] < columns):
        raise ValueError(f'patch must be inside the {rows} x {columns} grid, got {tuple(patch)}')
    chosen = patches[:, patch[0], patch[1]]  # (C,)
    target = patches if other is None else other  # (C, h, w)
    if not normalized:
        chosen, target = F.normalize(chosen.double(), dim=0), F.normalize(target.double(), dim=0)
    return torch.einsum('c,chw->hw', chosen, target).clamp(-1, 1).cpu().numpy()


def similarity_panels(
    features: Sequence[Tensor], image: int, patch: tuple[int, int], normalized: bool = False
) -> tuple[list[Pixels], Scale]:
    """Draw the similarity of one patch to all patches of all images.

    The images share one color scale, from their smallest similarity to 1: networks differ in
    how large their cosines are, and only the order matters.

    Args:
        features (sequence): Features of each image, each (C, h, w).
        image (int): Index of the image with the chosen patch.
        patch (tuple): (row, column) of the chosen patch.
        normalized (bool): See :func:`similarity_map`. Defaults to False.

    Returns:
        tuple: One map for each image, uint8 (h, w, 3), and their color scale.
    """
    maps = [similarity_map(features[image], patch, other, normalized) for other in features]
    low = float(min(values.min() for values in maps))
    return [colorize(values, low, 1) for values in maps], Scale(low, 1, 'viridis', 'cosine')


def similarity_figure(
    image: Pixels,
    neighbor: Pixels,
    patch: tuple[int, int],
    features: dict[str, tuple[Tensor, Tensor]],
    title: Optional[str] = None,
) -> Pixels:
    """Draw the similarity of one patch to its image and to a neighbor, one row per network.

    Args:
        image (np.ndarray): uint8, shape (H, W, 3).
        neighbor (np.ndarray): uint8, shape (H2, W2, 3).
        patch (tuple): (row, column) of the chosen patch, on the grid of the features.
        features (dict): Name of the row -> features of image and neighbor, each (C, h, w).
        title (str, optional): Text above the figure. Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    images = [check_pixels(image, 'image'), check_pixels(neighbor, 'neighbor')]
    size = images[0].shape[:2]
    rows = []
    for name, pair in features.items():
        maps, scale = similarity_panels(pair, 0, patch)
        maps = [resize(pixels, other.shape[:2]) for pixels, other in zip(maps, images)]
        frame = partial(frame_patch, patch=patch, grid=pair[0].shape[1:], size=size)
        panels = [Panel(images[0], frame), Panel(maps[0], frame)]
        panels += [Panel(pad_to_shape(pixels, size)) for pixels in (images[1], maps[1])]
        rows.append(Row(name, panels, scale))
    titles = ('chosen patch', 'similarity here', 'neighbor image', 'similarity there')
    return picture_sheet(rows, titles, title=title)
