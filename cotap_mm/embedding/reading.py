"""Read images of a source in the workers of a data loader; unreadable ones are no error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cotap_mm.datasets.loader_watch import report_dead_worker, watch_loader
from cotap_mm.datasets.read_with_retry import read_with_retry
from cotap_mm.datasets.sources.decoding import BadImage
from cotap_mm.datasets.sources.protocol import ImageSource, prepare
from cotap_mm.datasets.workers import WatchedImages, start_worker, surviving_workers
from cotap_mm.distributed.failures import silence_limit
from cotap_mm.encoders.images import Size, resize_image, to_pixels


class ReadImage(NamedTuple):
    """An image of a source.

    Attributes:
        number (int): Index in the source.
        pixels (Tensor | None): uint8, shape (3, H, W); None if it cannot be decoded.
        reason (str): Why it cannot be decoded.
    """

    number: int
    pixels: Optional[Tensor]
    reason: str = ''


class _Images(WatchedImages):
    """Images of a source in one size, or in their own."""

    def __init__(self, source: ImageSource, size: Optional[Size]) -> None:
        super().__init__(source)
        self.size = size
        prepare(source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> ReadImage:
        with self.signs.reading(index):
            try:
                pixels = read_with_retry(self.source, index, None, self.signs)
            except BadImage as error:
                return ReadImage(index, None, str(error))
            return ReadImage(index, resize_image(to_pixels(pixels), self.size))


@contextmanager
def reading(
    source: ImageSource, batches: Sequence[Sequence[int]], size: Optional[Size], num_workers: int
) -> Iterator[Iterator[list[ReadImage]]]:
    """Read images in batches.

    Args:
        source (ImageSource): The images.
        batches (sequence): Indices of the images of each batch.
        size (int | tuple, optional): Size of all images; None keeps the size of each.
        num_workers (int): Number of workers; 0 reads in this process.

    Yields:
        iterator: The images of each batch.

    Raises:
        UserError: If a worker dies or hangs.
    """
    dataset = _Images(source, size)
    loader = watch_loader(
        DataLoader(
            dataset,
            batch_sampler=[list(batch) for batch in batches],
            num_workers=num_workers,
            worker_init_fn=start_worker,
            collate_fn=list,
        ),
        silence_limit(),
    )
    with surviving_workers(), report_dead_worker(lambda: dataset.being_read):
        yield iter(loader)


def equal_sizes(batch: Sequence[ReadImage]) -> Iterator[tuple[list[int], Tensor]]:
    """Split a batch into runs of readable images of equal size.

    Args:
        batch (sequence[ReadImage]): The batch.

    Yields:
        tuple: Indices of the images, and their pixels (B, 3, H, W).
    """
    group: list[ReadImage] = []
    for image in batch:
        if image.pixels is None:
            continue
        if group and group[0].pixels.shape != image.pixels.shape:  # type: ignore[union-attr]
            yield _stacked(group)
            group = []
        group.append(image)
    if group:
        yield _stacked(group)


def _stacked(group: list[ReadImage]) -> tuple[list[int], Tensor]:
    pixels = [image.pixels for image in group if image.pixels is not None]
    return [image.number for image in group], torch.stack(pixels)
