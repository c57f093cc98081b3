"""Cut the crops of a batch on a device from images that the loader has only decoded.

The first crops that a process cuts on a device are compared with those of the CPU. If they differ,
or the device cannot cut them, all crops are cut on the CPU, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Optional, Union

import torch
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.ops.resampling import resize_regions

from .device_jpegs import all_pixels, device_of

#: Type of a device -> whether it cuts the same crops as the CPU.
_is_right: dict[str, bool] = {}


def with_crops(
    batch: Mapping[str, Any],
    device: Optional[Union[str, torch.device]] = None,
    regions: Optional[Tensor] = None,
) -> dict[str, Any]:
    """Cut the crops, if the loader has not.

    Args:
        batch (Mapping): Collated samples of :class:`cotap_mm.datasets.NeighborPairs`.
        device (str | torch.device, optional): Where to crop. Defaults to None, where the images
            are.
        regions (Tensor, optional): ``batch['images']['regions']`` on that device. Defaults to
            None, copied if needed.

    Returns:
        dict: Branch name -> :class:`.Crops`, as if the loader had cropped.
    """
    images = batch.get('images')
    if images is None:
        return dict(batch)
    device = torch.device(device_of(images) if device is None else device)
    pixels = _moved(batch, device)
    count = images['num_global']
    if regions is None or pixels.device.type == 'cpu':
        regions = images['regions']
    global_crops, local_crops = (
        _cut(pixels, images['regions'][:, :, some], size, regions[:, :, some]).to(
            device, non_blocking=True
        )
        for some, size in (
            (slice(0, count), images['global_size']),
            (slice(count, None), images['local_size']),
        )
    )
    return {
        branch: dict(
            batch[branch],
            global_crops=global_crops[:, 2 * index : 2 * index + 2],
            local_crops=local_crops[:, 2 * index : 2 * index + 2],
        )
        for index, branch in enumerate(images['branches'])
        if branch in batch
    }


def _moved(batch: Mapping[str, Any], device: torch.device) -> Tensor:
    """Pixels of all images, shape (P, 3), where they are to be cut."""
    if device.type not in _is_right:
        _is_right[device.type] = device.type == 'cpu' or _cuts_as_the_cpu(batch, device)
    return all_pixels(batch, device if _is_right[device.type] else torch.device('cpu'))


def _cuts_as_the_cpu(batch: Mapping[str, Any], device: torch.device) -> bool:
    """Whether a device cuts the first crops of a batch as the CPU does; warn if not."""
    images, pixels = batch['images'], all_pixels(batch, torch.device('cpu'))
    regions = images['regions'][:1]
    try:
        same = all(
            torch.equal(_cut(pixels.to(device), regions, size).cpu(), _cut(pixels, regions, size))
            for size in (images['global_size'], images['local_size'])
        )
        reason = 'other pixels than the CPU'
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise errors of their own
        same, reason = False, f'an error: {type(error).__name__}: {error}'
    if not same:
        print_log(
            f'cutting crops on {device} gives {reason}. They are cut on the CPU, by one core; '
            "train_dataloader.dataset.crop_on='worker' uses all workers. Please report this",
            logger='current',
            level=logging.WARNING,
        )
    return same


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
        crops = _cut(all_pixels(batch, device_of(images)), regions, images['global_size'])[:, 0]
    return crops.movedim(-1, -3)


def _cut(pixels: Tensor, regions: Tensor, size: int, there: Optional[Tensor] = None) -> Tensor:
    """Crops of regions (..., 6), shape (..., size, size, 3); ``there``: see resize_regions."""
    there = regions if there is None else there
    with torch.autocast(pixels.device.type, enabled=False):  # MMEngine calls preprocessors inside
        crops = resize_regions(pixels, regions.reshape(-1, 6), size, there=there.reshape(-1, 6))
    return crops.view(*regions.shape[:-1], size, size, 3)
