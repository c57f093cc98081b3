"""How every evaluation reads a data set: in batches, shared out to ranks, with progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from cotap_mm.distributed.collectives import rank, world_size
from cotap_mm.encoders.encoder import normalize_images
from cotap_mm.encoders.images import Size, resize_image

T = TypeVar('T')
_shown = False


class Batch(NamedTuple):
    """Images of one size.

    Attributes:
        indices (list): Their indices in the data set.
        images (Tensor): Normalised, shape (B, 3, H, W).
        labels (list): The label of each, as the data set gives it.
    """

    indices: list[int]
    images: Tensor
    labels: list[Any]


@contextmanager
def progress_bars() -> Iterator[None]:
    """Within this context, evaluations show progress bars (on rank 0, in a terminal)."""
    global _shown
    before, _shown = _shown, True
    try:
        yield
    finally:
        _shown = before


def with_progress(items: Sequence[T], what: str) -> Iterable[T]:
    """``items``, with a progress bar inside :func:`progress_bars`."""
    console = Console(stderr=True)
    if not _shown or rank() or not len(items) or not console.is_terminal:
        return items
    return track(items, description=what, transient=True, console=console)


def rank_indices(count: int) -> range:
    """Indices of ``count`` that this rank works on: every world_size-th."""
    return range(rank(), count, world_size())


def iter_batches(
    dataset: Any, batch_size: int = 16, image_size: Optional[Size] = None, what: str = 'images'
) -> Iterator[Batch]:
    """This rank's share of a data set, batch by batch.

    A batch holds one image size: where images differ, batches are smaller.

    Args:
        dataset: Data set of ``dict(image=uint8 (3, H, W), label=...)``.
        batch_size (int): Images at a time. Defaults to 16.
        image_size (int | tuple, optional): Resize to this square, or (height, width), in
            pixels. Defaults to None (as they are).
        what (str): Label of the progress bar.

    Yields:
        Batch: Normalised images and their labels.

    Raises:
        ValueError: If ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size must be positive, got {batch_size}')
    indices: list[int] = []
    images: list[Tensor] = []
    labels: list[Any] = []
    for index in with_progress(rank_indices(len(dataset)), what):
        sample = dataset[index]
        image = resize_image(sample['image'], image_size)
        if images and (len(images) == batch_size or image.shape != images[0].shape):
            yield Batch(indices, normalize_images(torch.stack(images)), labels)
            indices, images, labels = [], [], []
        indices.append(index)
        images.append(image)
        labels.append(sample['label'])
    if images:
        yield Batch(indices, normalize_images(torch.stack(images)), labels)
