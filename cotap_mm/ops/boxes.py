"""Boxes that two crops of an image have in common, and the patches inside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from .precision import at_least_float32


def common_boxes(boxes: Tensor, sizes: Sequence[int], num_global: int) -> tuple[Tensor, Tensor]:
    """Intersect the global crops with every crop, in crop pixels.

    Args:
        boxes (Tensor): Crop boxes x1, y1, x2, y2 in pixels of the decoded image, global crops
            first, shape (I, V, 4).
        sizes (Sequence[int]): Side of each crop in pixels, length V.
        num_global (int): G, number of global crops.

    Returns:
        tuple[Tensor, Tensor]: Intersection of global crop g and crop v, in pixels of g, shape
        (I, G, V, 4), and in pixels of v, shape (I, V, G, 4).

    Raises:
        ValueError: If the number of boxes differs from the number of sizes, or ``num_global`` is
            out of range.
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
    inside = torch.cat([low, high], dim=-1)  # (I, G, V, 4) image pixels
    # Filled on the device: copying a list would synchronize host and device.
    side = torch.stack([boxes.new_full((), size) for size in sizes])

    def in_pixels_of(box: Tensor, crop_side: Tensor) -> Tensor:
        origin, extent = box[..., :2], box[..., 2:] - box[..., :2]
        scale = crop_side[..., None] / extent
        return (inside - torch.cat([origin, origin], -1)) * torch.cat([scale, scale], -1)

    in_global = in_pixels_of(first, side[:num_global, None])
    in_other = in_pixels_of(other, side)
    return in_global, in_other.transpose(1, 2)


def roi_pool(maps: Tensor, boxes: Tensor, patch_size: int, size: int = 6) -> Tensor:
    """Resample boxes of each map to a grid (RoIAlign), in at least float32.

    Args:
        maps (Tensor): Patch maps, shape (N, C, H, W).
        boxes (Tensor): R boxes for each map, in crop pixels, shape (N, R, 4).
        patch_size (int): Patch size in pixels.
        size (int): Height and width of the grid, in cells. Defaults to 6.

    Returns:
        Tensor: Values of the cells, shape (N, R, C, size, size), at least float32.
    """
    # Half precision would round the boxes, and beyond 256 maps their indices too.
    maps = at_least_float32(maps)
    index = torch.arange(len(maps), device=maps.device, dtype=maps.dtype)
    index = index[:, None, None].expand(-1, boxes.shape[1], 1)
    rois = torch.cat([index, boxes.to(maps.dtype) / patch_size], dim=2).flatten(0, 1)  # (N*R, 5)
    cells = roi_align(maps, rois, output_size=size, sampling_ratio=-1, aligned=True)
    return cells.unflatten(0, boxes.shape[:2])
