"""Negative images for the images of a batch."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor


def sample_negatives(
    num_images: int, num_negatives: int, generator: Optional[torch.Generator] = None
) -> Tensor:
    """Draw distinct other images for each image of a batch.

    Images are put in a random cyclic order, and each takes the images at the same distinct random
    distances along it. So each image gets ``num_negatives`` different images, never itself, and
    serves as a negative equally often. (In the released implementation the draws can repeat an
    image or include the image itself.)

    Args:
        num_images (int): B, images in the batch.
        num_negatives (int): Negatives per image; B - 1 if this is larger.
        generator (torch.Generator, optional): Source of randomness. Defaults to the global one.

    Returns:
        Tensor: Indices, shape (min(num_negatives, B - 1), B), int64.
    """
    order = torch.randperm(num_images, generator=generator)
    steps = torch.randperm(max(num_images - 1, 0), generator=generator)[:num_negatives] + 1
    position = order.argsort()  # image -> position in the cyclic order
    return order[(position[None, :] + steps[:, None]) % max(num_images, 1)]
