"""Images of a sample and of a batch, for crops that are cut on the training device.

They are decoded; plain JPEGs can also travel as the files they are, and be decoded on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from .shared_parts import PART, Part, SentParts, take_part, views
from .transforms.multi_crop import Box, MultiCrop

_LARGEST = 4  # times the bytes of its crops
_PART = PART // 3  # pixels
_END = b'\xff\xd9'  # of a complete JPEG
_ADOBE = b'Adobe\0'  # its colors may be stored in another way
_NOTHING = np.zeros((1, 1, 1), np.uint8)


class JpegStore:
    """Contents of JPEG files one after the other; none of them spans two parts of memory.

    Attributes:
        parts (list[Part]): The memory.
        used (list[int]): Bytes that are used of each part.
        sizes (list[tuple[int, int, int]]): Length in bytes, height and width of each.
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.used: list[int] = []
        self.sizes: list[tuple[int, int, int]] = []
        self._pixels = 0

    def add(self, data: bytes, height: int, width: int) -> int:
        """Append a file; return how many pixels the files before it have."""
        if not self.parts or len(data) > len(self.parts[-1].memory) - self.used[-1]:
            self.parts.append(take_part(max(PART, len(data))))
            self.used.append(0)
        memory, low = self.parts[-1].memory.numpy(), self.used[-1]
        memory[low : low + len(data)] = np.frombuffer(data, np.uint8)
        self.used[-1] += len(data)
        self.sizes.append((len(data), height, width))
        self._pixels += height * width
        return self._pixels - height * width

    def __len__(self) -> int:
        return self._pixels


class PixelStore:
    """Images one after the other, in parts of memory that are taken when they are needed.

    Images are decoded into it, where the decoder can do that. Others are copied as soon as they
    are decoded, while they are in the processor's cache.

    Args:
        jpegs (JpegStore, optional): Where JPEGs are put that are not decoded. Defaults to None:
            all are.

    Attributes:
        parts (list[Part]): The memory.
        used (list[int]): Pixels that are used of each part.
    """

    def __init__(self, jpegs: Optional[JpegStore] = None) -> None:
        self.jpegs = jpegs
        self.parts: list[Part] = []
        self._pixels: list[Tensor] = []  # of each part, (number, 3)
        self.used: list[int] = []  # pixels of each part
        self._count = 0
        self._reserved: dict[int, tuple[np.ndarray, int]] = {}

    def new_pixels(self, height: int, width: int) -> np.ndarray:
        """Return memory for an image, shape (height, width, 3); :meth:`add` does not copy it."""
        size = height * width
        if size > _PART:  # copied, since it has to be divided
            return np.empty((height, width, 3), np.uint8)
        if not self.parts or size > _PART - self.used[-1]:
            self._take_part()
        start, low = self._count, self.used[-1]
        self._use(size)
        image = self._pixels[-1][low : low + size].numpy().reshape(height, width, 3)
        self._reserved[id(image)] = image, start  # while it is here, no other has its id
        return image

    def add(self, image: np.ndarray) -> int:
        """Append an image (h, w, 3); return the index of its first pixel."""
        if id(image) in self._reserved:
            return self._reserved[id(image)][1]
        start, pixels = self._count, torch.from_numpy(np.ascontiguousarray(image)).flatten(0, 1)
        while len(pixels):
            if not self.parts or self.used[-1] == _PART:
                self._take_part()
            low = self.used[-1]
            some, pixels = pixels[: _PART - low], pixels[_PART - low :]
            self._pixels[-1][low : low + len(some)] = some
            self._use(len(some))
        return start

    def _take_part(self) -> None:
        self.parts.append(take_part())
        self._pixels.append(self.parts[-1].memory[: 3 * _PART].view(-1, 3))
        self.used.append(0)

    def _use(self, pixels: int) -> None:
        self.used[-1] += pixels
        self._count += pixels

    def __len__(self) -> int:
        return self._count


def sent_pixels(stores: Sequence[PixelStore]) -> list[Tensor]:
    """List what stores contain, tensors (number, 3); a worker can send it to the main process."""
    parts = [part for store in stores for part in store.parts]
    return _sent(parts, [3 * number for store in stores for number in store.used], (3,))


def _sent(parts: list[Part], used: list[int], shape: tuple[int, ...]) -> list[Tensor]:
    return (SentParts if parts and get_worker_info() else views)(parts, used, shape)


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

    def new_pixels(self, height: int, width: int) -> np.ndarray:
        """Return memory for an image, shape (height, width, 3), uint8; see :class:`PixelStore`."""
        if self._is_large(height * width):
            return np.empty((height, width, 3), np.uint8)
        return self.store.new_pixels(height, width)

    def keep(self, data: bytes, height: int, width: int) -> Optional[np.ndarray]:
        """Put a JPEG into the store as it is, if the device can be expected to decode it.

        Returns:
            np.ndarray: An array of the image's shape without its pixels, for :meth:`add`; None if
            the worker has to decode it: one that is incomplete, has unusual colors, or is large.
        """
        jpegs = self.store.jpegs
        is_plain = data.endswith(_END) and _ADOBE not in data
        if jpegs is None or not is_plain or self._is_large(height * width):
            return None
        image = np.broadcast_to(_NOTHING, (height, width, 3))
        self._stored[id(image)] = image, -1 - jpegs.add(data, height, width)
        return image

    def _is_large(self, pixels: int) -> bool:
        crop = self.crop
        of_crops = crop.num_global * crop.global_size**2 + crop.num_local * crop.local_size**2
        return pixels > _LARGEST * of_crops

    def _regions(self, image: np.ndarray, boxes: list[Box]) -> list[tuple[int, ...]]:
        if self._is_large(image.shape[0] * image.shape[1]):
            crops = [crop.numpy() for part in self.crop.cut(image, boxes) for crop in part]
            return [(self.store.add(crop), len(crop), 0, 0, *crop.shape[:2]) for crop in crops]
        if id(image) not in self._stored:
            start = self.store.add(image)
            self._stored[id(image)] = image, start  # while it is here, no other has its id
        start = self._stored[id(image)][1]
        return [(start, image.shape[1], *box) for box in boxes]


def collate_images(samples: list[DecodedImages], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """Put the images of a batch together.

    Args:
        samples (list[DecodedImages]): With the same branches and crops.
        collate_fn_map: Not used.

    Returns:
        dict: ``pixels`` (list of tensors (number, 3), uint8), to be concatenated, and followed by
        those of the JPEGs, if there are any: ``jpeg_files`` (list of tensors (bytes,), uint8, the
        files one after the other), ``jpeg_sizes`` (number, 3) int64, bytes, height and width;
        ``regions`` (B, images of a sample, V, 6) int64, see :func:`.resize_regions`;
        ``branches`` (list of names, two images each); ``global_size``, ``local_size`` and
        ``num_global`` (int).
    """
    regions = np.array([sample.regions for sample in samples], np.int64)
    stores = list({id(sample.store): sample.store for sample in samples}.values())
    starts = dict(zip(map(id, stores), _before(list(map(len, stores)))))
    jpegs = [store.jpegs or JpegStore() for store in stores]
    later = dict(zip(map(id, stores), _before(list(map(len, jpegs)), sum(map(len, stores)))))
    for sample, own in zip(samples, regions):
        start, key = own[..., 0], id(sample.store)
        own[..., 0] = np.where(start < 0, later[key] - 1 - start, starts[key] + start)
    sizes = [each for store in jpegs for each in store.sizes]
    files = dict(
        jpeg_files=_sent(
            [part for store in jpegs for part in store.parts],
            [number for store in jpegs for number in store.used],
            (),
        ),
        jpeg_sizes=torch.tensor(sizes),
    )
    first = samples[0]
    return dict(
        pixels=sent_pixels(stores),
        **(files if sizes else {}),
        regions=torch.from_numpy(regions),
        branches=first.branches,
        global_size=first.crop.global_size,
        local_size=first.crop.local_size,
        num_global=first.crop.num_global,
    )


def _before(numbers: list[int], start: int = 0) -> list[int]:
    """Sum of a number and all numbers before each."""
    return [start + sum(numbers[:index]) for index in range(len(numbers))]


default_collate_fn_map[DecodedImages] = collate_images
