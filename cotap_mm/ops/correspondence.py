"""Which places of two crops show the same part of an image, and which images are negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor
from torchvision.ops import roi_align


def common_boxes(boxes: Tensor, sizes: Sequence[int], num_global: int) -> tuple[Tensor, Tensor]:
    """Intersections of the global crops with every crop, in crop pixels.

    Args:
        boxes (Tensor): Crop boxes x1, y1, x2, y2 in source pixels, global crops
            first, shape (I, V, 4).
        sizes (Sequence[int]): Side of each crop in pixels, length V.
        num_global (int): G, number of global crops.

    Returns:
        tuple[Tensor, Tensor]: The intersection of global crop g and crop v in the
        pixels of g, shape (I, G, V, 4), and the same in the pixels of v, shape
        (I, V, G, 4).

    Raises:
        ValueError: If the numbers of boxes and sizes do not fit.
    """
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or boxes.shape[1] != len(sizes):
        raise ValueError(
            f'boxes must have shape (I, {len(sizes)}, 4) for {len(sizes)} crop '
            f'sizes, got {tuple(boxes.shape)}'
        )
    if not 0 < num_global <= len(sizes):
        raise ValueError(f'num_global must be in 1..{len(sizes)}, got {num_global}')
    first, other = boxes[:, :num_global, None], boxes[:, None]  # (I, G, 1, 4), (I, 1, V, 4)
    low = torch.maximum(first[..., :2], other[..., :2])
    high = torch.maximum(torch.minimum(first[..., 2:], other[..., 2:]), low)
    inside = torch.cat([low, high], dim=-1)  # (I, G, V, 4) source pixels
    # Filled on the device: a copy of a list would make the step wait.
    side = torch.stack([boxes.new_full((), size) for size in sizes])

    def in_pixels_of(box: Tensor, crop_side: Tensor) -> Tensor:
        origin, extent = box[..., :2], box[..., 2:] - box[..., :2]
        scale = crop_side[..., None] / extent
        return (inside - torch.cat([origin, origin], -1)) * torch.cat([scale, scale], -1)

    in_global = in_pixels_of(first, side[:num_global, None])
    in_other = in_pixels_of(other, side)
    return in_global, in_other.transpose(1, 2)


def roi_pool(maps: Tensor, boxes: Tensor, patch_size: int, size: int = 6) -> Tensor:
    """Cut boxes out of each map and resample them to a grid.

    Args:
        maps (Tensor): Patch maps, shape (N, C, H, W).
        boxes (Tensor): R boxes for each map, in crop pixels, shape (N, R, 4).
        patch_size (int): Pixels a patch.
        size (int): Cells a side. Defaults to 6.

    Returns:
        Tensor: Cells, shape (N, R, C, size, size).
    """
    index = torch.arange(len(maps), device=maps.device, dtype=maps.dtype)
    index = index[:, None, None].expand(-1, boxes.shape[1], 1)
    rois = torch.cat([index, boxes.to(maps.dtype) / patch_size], dim=2).flatten(0, 1)  # (N*R, 5)
    cells = roi_align(maps, rois, output_size=size, sampling_ratio=-1, aligned=True)
    return cells.unflatten(0, boxes.shape[:2])


def sample_negatives(
    num_images: int, num_negatives: int, generator: Optional[torch.Generator] = None
) -> Tensor:
    """Draw distinct other images for each image of a batch.

    A random cyclic order and distinct random steps along it: each image gets
    ``num_negatives`` different images, never itself, and each image serves as a
    negative equally often. (In the released implementation the draws can repeat
    an image or hit the image itself.)

    Args:
        num_images (int): B, images in the batch.
        num_negatives (int): Wanted negatives an image; at most B - 1 exist.
        generator (torch.Generator, optional): Source of randomness.

    Returns:
        Tensor: Indices, shape (min(num_negatives, B - 1), B), int64.
    """
    order = torch.randperm(num_images, generator=generator)
    steps = torch.randperm(max(num_images - 1, 0), generator=generator)[:num_negatives] + 1
    place = order.argsort()  # image -> place in the cyclic order
    return order[(place[None, :] + steps[:, None]) % max(num_images, 1)]
