"""Cut the crops of a batch on a device from images that the loader has only decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, Union

import torch
from torch import Tensor

from cotap_mm.ops.resampling import resize_regions


def with_crops(
    batch: Mapping[str, Any], device: Optional[Union[str, torch.device]] = None
) -> dict[str, Any]:
    """Cut the crops, if the loader has not.

    Args:
        batch (Mapping): Collated samples of :class:`cotap_mm.datasets.NeighborPairs`.
        device (str | torch.device, optional): Where to crop. Defaults to None, where the images
            are.

    Returns:
        dict: Branch name -> :class:`.Crops`, as if the loader had cropped.
    """
    images = batch.get('images')
    if images is None:
        return dict(batch)
    pixels = torch.cat([part.to(device, non_blocking=True) for part in images['pixels']])
    count = images['num_global']
    global_crops = _cut(pixels, images['regions'][:, :, :count], images['global_size'])
    local_crops = _cut(pixels, images['regions'][:, :, count:], images['local_size'])
    return {
        branch: dict(
            batch[branch],
            global_crops=global_crops[:, 2 * index : 2 * index + 2],
            local_crops=local_crops[:, 2 * index : 2 * index + 2],
        )
        for index, branch in enumerate(images['branches'])
        if branch in batch
    }


def first_crops(batch: Mapping[str, Any], count: int) -> Tensor:
    """Return the first global crop of the first images of the patch branch.

    Args:
        batch (Mapping): Collated samples of :class:`cotap_mm.datasets.NeighborPairs`.
        count (int): Maximum number of images.

    Returns:
        Tensor: Shape (count, 3, g, g), uint8.
    """
    images = batch.get('images')
    if images is None:
        crops = batch['patch']['global_crops'][:count, 0, 0]
    else:
        index = 2 * images['branches'].index('patch')
        regions = images['regions'][:count, index, :1]
        crops = _cut(torch.cat(images['pixels']), regions, images['global_size'])[:, 0]
    return crops.movedim(-1, -3)


def _cut(pixels: Tensor, regions: Tensor, size: int) -> Tensor:
    """Crops of regions (..., 6), shape (..., size, size, 3)."""
    with torch.autocast(pixels.device.type, enabled=False):  # MMEngine calls preprocessors inside
        crops = resize_regions(pixels, regions.reshape(-1, 6), size)
    return crops.view(*regions.shape[:-1], size, size, 3)
