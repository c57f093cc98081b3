"""Read a few images of a folder in one size and encode them."""

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
        labels (list, optional): Class indices, 255 is ignored, each (H', W').
    """

    names: list[str]
    pixels: list[Pixels]
    labels: Optional[list[Tensor]] = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels[0].shape[0], self.pixels[0].shape[1]


def common_size(image: Pixels, patch_size: int, longest: int = LONGEST) -> tuple[int, int]:
    """Choose the size at which all images are encoded: that of one image, rounded.

    Args:
        image (np.ndarray): The image, shape (H, W, 3).
        patch_size (int): Patch size in pixels.
        longest (int): Maximum of the longer side. Defaults to 448.

    Returns:
        tuple: Height and width in pixels, multiples of the patch size.
    """
    height, width = image.shape[:2]
    factor = min(1.0, longest / max(height, width))

    def rounded(side: int) -> int:
        return max(1, round(side * factor / patch_size)) * patch_size

    return rounded(height), rounded(width)


def read_images(
    source: Any, indices: Sequence[int], size: Size, labels: Optional[Any] = None
) -> ImageSet:
    """Read images and resize them to one size.

    Args:
        source: Image source with ``name(i)`` and ``read(i)``; see
            :class:`cotap_mm.datasets.ImageList`.
        indices (sequence): Indices of the images to read.
        size (int | tuple): Side, or (height, width), to resize to. The aspect ratio is not kept.
        labels (optional): Labeled data set with the same images in the same order:
            ``labels[i]['label']``. Defaults to None.

    Returns:
        ImageSet: Images in the order of ``indices``.
    """
    pixels = [
        resize_image(to_pixels(source.read(i)), size).permute(1, 2, 0).numpy() for i in indices
    ]
    names = [printable(PurePosixPath(source.name(i)).stem) for i in indices]
    kept = None if labels is None else [labels[i]['label'] for i in indices]
    return ImageSet(names, pixels, kept)


def short_titles(names: Sequence[str]) -> list[str]:
    """Return the number and name of each image.

    Long names keep their end, which is usually more specific than the beginning.
    """
    short = [name if len(name) <= 20 else f'…{name[-19:]}' for name in names]
    return [f'{index}: {name}' for index, name in enumerate(short)]


def to_batch(images: Sequence[Pixels]) -> Tensor:
    """Normalize images of one size, uint8 (H, W, 3), to a float batch (B, 3, H, W)."""
    return normalize_images(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))


def in_batches(compute: Callable[[Tensor], Tensor], images: Sequence[Pixels]) -> Tensor:
    """Apply ``compute`` to small batches of normalized images and concatenate on the CPU."""
    return torch.cat(
        [compute(to_batch(images[i : i + BATCH])).cpu() for i in range(0, len(images), BATCH)]
    )


def encode_images(
    encoder: Encoder, images: Sequence[Pixels], window: Optional[Size] = None
) -> Tensor:
    """Compute patch features of images of one size.

    Args:
        encoder (Encoder): Encoder to use.
        images (sequence): uint8, each (H, W, 3).
        window (int | tuple, optional): Window size; see :func:`encode_large`. Defaults to None.

    Returns:
        Tensor: Features, shape (B, C, h, w), on the CPU.
    """
    return in_batches(lambda batch: encode_large(encoder, batch, window=window).patches, images)


def encode_tokens(encoder: Encoder, images: Sequence[Pixels]) -> Tensor:
    """Compute the patch tokens after the last block, before any final norm or filter.

    Args:
        encoder (Encoder): Encoder to use; its features are used if it has no blocks.
        images (sequence): uint8, each (H, W, 3).

    Returns:
        Tensor: Tokens, shape (B, d, h, w), on the CPU.
    """

    def last(batch: Tensor) -> Tensor:
        try:
            return encoder.layers(batch)[-1]
        except NotImplementedError:
            return encoder(batch).patches

    return in_batches(last, images)
