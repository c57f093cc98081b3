"""Decoded images of a sample and of a batch, for crops that are cut on the training device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from .transforms.multi_crop import Box, MultiCrop

_LARGEST = 4  # times the bytes of its crops
_PART = 1 << 21  # pixels allocated at a time


def _new_pixels(*shape: int) -> Tensor:
    """Allocate uint8 values that reach the main process without another copy."""
    empty = torch.empty(0, dtype=torch.uint8)
    if get_worker_info() is None:
        return empty.new_empty(shape)
    # As in default_collate: share_memory_ would copy.
    storage = torch.UntypedStorage._new_shared(torch.Size(shape).numel())
    return empty.set_(storage).view(shape)


class PixelStore:
    """Images one after the other, in parts that are allocated when they are needed.

    Each image is copied as soon as it is decoded, while it is in the processor's cache.
    """

    def __init__(self) -> None:
        self._parts: list[Tensor] = []  # (number, 3) each
        self._count = self._free = 0

    def add(self, image: Tensor) -> int:
        """Append an image (h, w, 3); return the index of its first pixel."""
        start, pixels = self._count, image.flatten(0, 1)
        while len(pixels):
            if not self._free:
                self._parts.append(_new_pixels(_PART, 3))
                self._free = _PART
            low = _PART - self._free
            some, pixels = pixels[: self._free], pixels[self._free :]
            self._parts[-1][low : low + len(some)] = some
            self._count += len(some)
            self._free -= len(some)
        return start

    def __len__(self) -> int:
        return self._count

    @property
    def parts(self) -> list[Tensor]:
        """What has been stored, shapes (number, 3)."""
        return [*self._parts[:-1], *(part[: _PART - self._free] for part in self._parts[-1:])]


class DecodedImages:
    """Images of one sample with the boxes of their crops.

    An image with more than four times the bytes of its crops is cut at once, so that memory and
    traffic stay bounded. PyTorch's ``default_collate`` calls :func:`collate_images`.

    Args:
        crop (MultiCrop): Has the sizes and the number of the crops.
        store (PixelStore): Where to put them; samples of a batch can share one.
    """

    def __init__(self, crop: MultiCrop, store: PixelStore) -> None:
        self.crop = crop
        self.store = store
        self.branches: list[str] = []
        self.regions: list[list[tuple[int, ...]]] = []  # of each image, see resize_regions
        self._stored: dict[int, tuple[np.ndarray, int]] = {}

    def add(self, branch: str, images: Sequence[np.ndarray], boxes: Sequence[list[Box]]) -> None:
        """Add an image and its positive.

        Args:
            branch (str): Name of their branch.
            images (Sequence[np.ndarray]): Pixels, shape (H, W, 3), uint8. An array that is added
                again is stored once.
            boxes (Sequence[list[Box]]): Boxes of the crops of each image.
        """
        self.branches.append(branch)
        for image, some in zip(images, boxes):
            self.regions.append(self._regions(image, some))

    def _regions(self, image: np.ndarray, boxes: list[Box]) -> list[tuple[int, ...]]:
        sizes = [self.crop.global_size] * self.crop.num_global
        sizes += [self.crop.local_size] * self.crop.num_local
        if image.size > _LARGEST * 3 * sum(size**2 for size in sizes):
            crops = [crop for part in self.crop.cut(image, boxes) for crop in part]
            return [(self.store.add(crop), len(crop), 0, 0, *crop.shape[:2]) for crop in crops]
        if id(image) not in self._stored:
            start = self.store.add(torch.from_numpy(np.ascontiguousarray(image)))
            self._stored[id(image)] = image, start  # while it is here, no other has its id
        start = self._stored[id(image)][1]
        return [(start, image.shape[1], *box) for box in boxes]


def collate_images(samples: list[DecodedImages], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """Put the images of a batch together.

    Args:
        samples (list[DecodedImages]): With the same branches and crops.
        collate_fn_map: Not used.

    Returns:
        dict: ``pixels`` (list of tensors (number, 3), uint8), to be concatenated; ``regions``
        (B, images of a sample, V, 6) int64, see :func:`cotap_mm.ops.resampling.resize_regions`;
        ``branches`` (list of names, two images each); ``global_size``, ``local_size`` and
        ``num_global`` (int).
    """
    regions = torch.tensor([sample.regions for sample in samples])
    starts: dict[int, int] = {}
    pixels: list[Tensor] = []
    for sample, own in zip(samples, regions):
        if id(sample.store) not in starts:
            starts[id(sample.store)] = sum(map(len, pixels))
            pixels += sample.store.parts
        own[..., 0] += starts[id(sample.store)]
    first = samples[0]
    return dict(
        pixels=pixels,
        regions=regions,
        branches=first.branches,
        global_size=first.crop.global_size,
        local_size=first.crop.local_size,
        num_global=first.crop.num_global,
    )


default_collate_fn_map[DecodedImages] = collate_images
