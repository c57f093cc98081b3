"""Choose a subset of indices; copy random numbers to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def evenly_spaced(count: int, kept: int) -> list[int]:
    """Return evenly spaced indices, starting with 0.

    Args:
        count (int): Number of items.
        kept (int): Number of indices to return; all of them if there are fewer items.

    Returns:
        list[int]: Increasing indices below ``count``.

    Raises:
        ValueError: If ``kept`` is not positive.
    """
    if kept < 1:
        raise ValueError(f'the number of items to keep must be positive, got {kept}')
    kept = min(kept, count)
    return [i * count // kept for i in range(kept)]


def pinned(values: Tensor) -> Tensor:
    """Copy a CPU tensor to pinned memory if a GPU is in use, so that copies to it are asynchronous.

    A ``non_blocking`` copy of other memory waits for a part of the work on the GPU.
    """
    if values.device.type == 'cpu' and torch.cuda.is_initialized():
        return values.pin_memory()
    return values
