"""Keep the labeled images of an evaluation that a training repeats."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from cotap_mm.encoders.images import Size, resize_image

#: Bytes that a :class:`KeptSamples` needs at most: some 400 images of 240 x 184 pixels with label
#: maps of 480 x 360.
MOST_BYTES = 2**27


class KeptSamples:
    """Labeled images, each of which is read and resized once, as long as there is space for it.

    The first images that are read are kept, up to ``most_bytes``; all others are read again each
    time. An image that is kept does not follow later changes of its file. On several ranks each
    rank keeps what it reads, its own shard.

    Args:
        dataset: Data set of ``dict(image=uint8 (3, H, W), label=...)``. A label is a map of class
            indices (H, W), or one class index.
        image_size (int | tuple, optional): Size to which images are resized, in pixels, see
            :func:`resize_image`. Defaults to None (keep the original size).
        most_bytes (int): Bytes that images and label maps need at most. Defaults to 128 MiB.
    """

    def __init__(
        self, dataset: Any, image_size: Optional[Size] = None, most_bytes: int = MOST_BYTES
    ) -> None:
        self.dataset, self.image_size = dataset, image_size
        self._kept: dict[int, dict[str, Any]] = {}
        self._free = most_bytes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image (uint8, (3, h, w)) and label; the same tensors each time, not to be changed.

        A label map whose values fit is uint8.
        """
        if index in self._kept:
            return self._kept[index]
        sample = self.dataset[index]
        sample = dict(
            image=resize_image(sample['image'], self.image_size), label=_smallest(sample['label'])
        )
        size = sum(part.nbytes for part in sample.values() if isinstance(part, Tensor))
        if size <= self._free:
            self._free -= size
            # A copy, since a data set may write the next image into the same memory.
            self._kept[index] = sample = {
                key: part.clone() if isinstance(part, Tensor) else part
                for key, part in sample.items()
            }
        return sample

    def label_file(self, index: int) -> str:
        """Path of a mask, '' if the data set does not provide paths."""
        find = getattr(self.dataset, 'label_file', None)
        return find(index) if find else ''


def _smallest(label: Any) -> Any:
    """Convert a label map to uint8 if its values fit."""
    if not isinstance(label, Tensor) or not label.ndim or not label.numel():
        return label
    lowest, highest = label.aminmax()
    return label.to(torch.uint8) if lowest >= 0 and highest <= 255 else label
