"""Decode the JPEGs of a batch on a device, if the loader has sent them as files.

``torchvision.io.decode_jpeg`` decodes them in one call: by nvJPEG on CUDA, whose pixels may differ
slightly from those of libjpeg-turbo, which decodes on the CPU. What the device cannot decode is
decoded on the CPU, as a worker would have done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Optional

import torch
from mmengine.logging import print_log
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from cotap_mm.datasets.sources.decoding import BadImage, decode_image
from cotap_mm.errors import UserError

#: Types of devices that could not decode any JPEG of a batch; the CPU does.
_unable: set[str] = set()


def all_pixels(batch: Mapping[str, Any], device: torch.device) -> Tensor:
    """Pixels of all images of a batch, those that the loader has decoded first.

    Args:
        batch (Mapping): Collated samples of :class:`cotap_mm.datasets.NeighborPairs` with
            ``images``, see :func:`cotap_mm.datasets.decoded_images.collate_images`.
        device (torch.device): Where to decode and to return them.

    Returns:
        Tensor: Shape (P, 3), uint8.

    Raises:
        UserError: If a file is damaged.
    """
    images = batch['images']
    # Memory that is not pinned may be used again as soon as this returns.
    parts = [part.to(device, non_blocking=part.is_pinned()) for part in images['pixels']]
    return torch.cat([*parts, *_decoded(batch, device)])


def device_of(images: Mapping[str, Any]) -> torch.device:
    """Device of the images of a batch."""
    return (images['pixels'] or images['jpeg_files'])[0].device


def _decoded(batch: Mapping[str, Any], device: torch.device) -> list[Tensor]:
    """Pixels of each JPEG, (height * width, 3)."""
    images = batch['images']
    if 'jpeg_files' not in images:
        return []
    sizes = images['jpeg_sizes'].tolist()
    files = list(_files(images['jpeg_files'], [size for size, _, _ in sizes]))
    decoded = _decode(files, device)
    start, pixels = sum(map(len, images['pixels'])), []
    for index, (_, height, width) in enumerate(sizes):
        image = decoded[index]
        if image is None or image.shape != (3, height, width):
            image = _decode_as_a_worker(files[index], batch, start).to(device)
        pixels.append(image.permute(1, 2, 0).reshape(-1, 3))
        start += height * width
    return pixels


def _files(parts: list[Tensor], lengths: list[int]) -> Iterator[Tensor]:
    """Split what the parts of memory contain into files."""
    rest = iter(parts)
    part = next(rest)
    for length in lengths:
        if not len(part):
            part = next(rest)
        yield part[:length]
        part = part[length:]


def _decode(files: list[Tensor], device: torch.device) -> list[Optional[Tensor]]:
    """Decode files, (3, height, width) each; None for those that cannot be decoded."""
    if device.type == 'cpu' or device.type in _unable:
        return [_decode_one(file, torch.device('cpu')) for file in files]
    try:
        return list(decode_jpeg(files, ImageReadMode.RGB, device=device))
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # of one file, or a library is missing
        reason = f'{type(error).__name__}: {error}'
    found = [_decode_one(file, device) for file in files]
    if all(each is None for each in found):
        _unable.add(device.type)
        print_log(
            f'JPEGs cannot be decoded on {device} ({reason}). They are decoded on the CPU, by one '
            "core; train_dataloader.dataset.crop_on='device' uses all workers",
            logger='current',
            level=logging.WARNING,
        )
    return found


def _decode_one(file: Tensor, device: torch.device) -> Optional[Tensor]:
    try:
        return decode_jpeg(file, ImageReadMode.RGB, device=device)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception:  # decoded again, in another way
        return None


def _decode_as_a_worker(file: Tensor, batch: Mapping[str, Any], start: int) -> Tensor:
    """Decode a file by the worker's rules, (3, height, width)."""
    name = _name_of(batch, start)
    try:
        pixels = decode_image(file.cpu().numpy().tobytes(), None, name)
    except BadImage as error:
        raise UserError(
            f"{error}. With train_dataloader.dataset.crop_on='device_jpeg' an image that is "
            'damaged cannot be replaced by another one; repair or remove it, or use '
            "crop_on='device'"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _name_of(batch: Mapping[str, Any], start: int) -> str:
    """Name of the image whose first pixel has an index."""
    images = batch['images']
    sample, image = (images['regions'][:, :, 0, 0] == start).nonzero()[0].tolist()
    return batch[images['branches'][image // 2]]['path'][image % 2][sample]
