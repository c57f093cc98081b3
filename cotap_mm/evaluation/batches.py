"""Iterate over a data set in batches, sharded across ranks, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from cotap_mm.distributed.collectives import rank, world_size
from cotap_mm.encoders.encoder import normalize_images
from cotap_mm.encoders.images import resize_image
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.progress import track

T = TypeVar('T')
_shown = False


class Batch(NamedTuple):
    """A batch of images of the same size.

    Attributes:
        indices (list): Their indices in the data set.
        images (Tensor): Normalized, shape (B, 3, H, W).
        labels (list): Their labels, as returned by the data set.
    """

    indices: list[int]
    images: Tensor
    labels: list[Any]


@contextmanager
def progress_bars() -> Iterator[None]:
    """Show the progress of evaluations within this context; see :class:`.Progress`."""
    global _shown
    before, _shown = _shown, True
    try:
        yield
    finally:
        _shown = before


def with_progress(items: Sequence[T], what: str) -> Iterable[T]:
    """Iterate over ``items``, and show the progress inside :func:`progress_bars`."""
    return track(items, len(items), what) if _shown else items


def rank_indices(count: int) -> range:
    """Indices below ``count`` of this rank's shard: every world_size-th."""
    return range(rank(), count, world_size())


def iter_batches(labeled: LabeledSet, what: str = 'images') -> Iterator[Batch]:
    """Iterate over this rank's shard of a data set.

    All images of a batch have the same size: a batch ends early where the next image differs.

    Args:
        labeled (LabeledSet): The images, their size and the batch size.
        what (str): Label of the progress bar. Defaults to 'images'.

    Yields:
        Batch: Normalized images and their labels.
    """
    indices: list[int] = []
    images: list[Tensor] = []
    labels: list[Any] = []
    for index in with_progress(rank_indices(len(labeled)), what):
        sample = labeled.dataset[index]
        image = resize_image(sample['image'], labeled.image_size)
        is_full = len(images) == labeled.batch_size
        if images and (is_full or image.shape != images[0].shape):
            yield Batch(indices, normalize_images(torch.stack(images)), labels)
            indices, images, labels = [], [], []
        indices.append(index)
        images.append(image)
        labels.append(sample['label'])
    if images:
        yield Batch(indices, normalize_images(torch.stack(images)), labels)
