"""The images that a report shows: a few of a folder, in one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from cotap_mm.encoders.encoder import Encoder, normalize_images
from cotap_mm.encoders.images import Size, resize_image, to_pixels
from cotap_mm.encoders.sliding_window import encode_large
from cotap_mm.files.atomic_write import printable
from cotap_mm.visualization.figures.canvas import Pixels

LONGEST = 448  # pixels
BATCH = 8


class ImageSet(NamedTuple):
    """Images of one size.

    Attributes:
        names (list): Short names.
        pixels (list): uint8, each (H, W, 3).
        labels (list, optional): Class indices, 255 ignored, each (H', W').
    """

    names: list[str]
    pixels: list[Pixels]
    labels: Optional[list[Tensor]] = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels[0].shape[0], self.pixels[0].shape[1]


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` indices of ``count``, evenly spread.

    Raises:
        ValueError: If ``limit`` is not positive.
    """
    if limit < 1:
        raise ValueError(f'the number of images must be positive, got {limit}')
    kept = min(count, limit)
    return [i * count // kept for i in range(kept)]


def common_size(image: Pixels, patch_size: int, longest: int = LONGEST) -> tuple[int, int]:
    """Height and width of an image, in whole patches, its longer side at most ``longest``."""
    height, width = image.shape[:2]
    factor = min(1.0, longest / max(height, width))

    def whole(side: int) -> int:
        return max(1, round(side * factor / patch_size)) * patch_size

    return whole(height), whole(width)


def read_images(
    source: Any, indices: Sequence[int], size: Size, labels: Optional[Any] = None
) -> ImageSet:
    """Read images in one size.

    Args:
        source: Image source with ``name(i)`` and ``read(i)``; see
            :class:`cotap_mm.datasets.ImageList`.
        indices (sequence): Which.
        size (int | tuple): Side, or (height, width), to resize to, whatever their shape.
        labels (optional): Labelled data set of the same images in the same order:
            ``labels[i]['label']``. Defaults to None.

    Returns:
        ImageSet: In the order of ``indices``.
    """
    pixels = [
        resize_image(to_pixels(source.read(i)), size).permute(1, 2, 0).numpy() for i in indices
    ]
    found = None if labels is None else [labels[i]['label'] for i in indices]
    return ImageSet([printable(PurePosixPath(source.name(i)).stem) for i in indices], pixels, found)


def to_batch(images: Sequence[Pixels]) -> Tensor:
    """Normalised float images (B, 3, H, W) of uint8 pixels (H, W, 3), all of one size."""
    return normalize_images(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))


def in_batches(compute: Callable[[Tensor], Tensor], images: Sequence[Pixels]) -> Tensor:
    """What ``compute`` says about normalised images of one size, few at a time, on the CPU."""
    return torch.cat(
        [compute(to_batch(images[i : i + BATCH])).cpu() for i in range(0, len(images), BATCH)]
    )


def encode_images(
    encoder: Encoder, images: Sequence[Pixels], window: Optional[Size] = None
) -> Tensor:
    """Patch features of images of one size.

    Args:
        encoder (Encoder): Gives the features.
        images (sequence): uint8, each (H, W, 3).
        window (int | tuple, optional): See :func:`encode_large`. Defaults to None.

    Returns:
        Tensor: Shape (B, C, h, w), on the CPU.
    """
    return in_batches(lambda batch: encode_large(encoder, batch, window=window).patches, images)
