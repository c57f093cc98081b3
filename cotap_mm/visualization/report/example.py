"""Choose the patch that a report follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.metrics import patch_labels
from cotap_mm.visualization.figures.canvas import Pixels

from .image_set import ImageSet, in_batches, to_batch


class Example(NamedTuple):
    """A patch of ``image``, and the neighbor of that image.

    Attributes:
        image (int): Index of the image.
        neighbor (int): Index of the most similar other image.
        patch (tuple): (row, column).
        name (str): Class of the patch.
    """

    image: int
    neighbor: int
    patch: tuple[int, int]
    name: str


def choose_example(
    encoder: Encoder, images: Sequence[Pixels], labels: Sequence[Any], classes: Sequence[str]
) -> Example:
    """Choose a patch by the labels, not by how good a result looks.

    The neighbor of each image is the most similar other one by CLS feature, as in training.
    The chosen image is the first one that shares a class with its neighbor. Of the shared
    classes, the one with the smallest area is chosen (an object rather than background), and
    of that class the patch that it covers most.

    Args:
        encoder (Encoder): Encoder to search the neighbors with.
        images (sequence): At least 2 images of one size, uint8 (H, W, 3).
        labels (sequence): Class indices, 255 is ignored, each (H, W).
        classes (sequence): Name of each class.

    Returns:
        Example: The most common class of the first image if no neighbors share a class.
    """
    features = encoder(to_batch(images))
    similarity = F.normalize(features.cls, dim=1) @ F.normalize(features.cls, dim=1).T
    neighbors = similarity.fill_diagonal_(-2).argmax(dim=1).tolist()  # below every cosine
    grid = features.patches.shape[2:]
    shares = [
        patch_labels(torch.as_tensor(label), (grid[0], grid[1]), len(classes)).cpu()
        for label in labels
    ]  # each (h * w, C)
    areas = torch.stack([share.mean(dim=0) for share in shares])  # (B, C)
    image, kind = 0, int(areas[0].argmax())
    for index, other in enumerate(neighbors):
        # Only by area, so that no list of "thing" classes is needed.
        shared = (areas[index] > 0.02) & (areas[other] > 0.02) & (areas[index] < 0.3)
        if shared.any():
            image, kind = index, int(areas[index].masked_fill(~shared, 2).argmin())
            break
    cell = int(shares[image][:, kind].argmax())
    return Example(image, neighbors[image], (cell // grid[1], cell % grid[1]), classes[kind])


def middle_of_foreground(
    encoder: Encoder, images: ImageSet, grid: tuple[int, int]
) -> tuple[int, int]:
    """Return the foreground patch of the first image that is nearest to the center.

    Args:
        encoder (Encoder): Encoder that computes the foreground mask.
        images (ImageSet): At least one image.
        grid (tuple): Number of patches (h, w).

    Returns:
        tuple: (row, column); the central patch if the encoder has no foreground mask.
    """
    center = np.array(grid) // 2
    try:
        mask = in_batches(encoder.foreground, images.pixels[:1])[0].numpy()
    except NotImplementedError:
        return int(center[0]), int(center[1])
    patches = np.argwhere(mask)
    row, column = patches[((patches - center) ** 2).sum(axis=1).argmin()]
    return int(row), int(column)
