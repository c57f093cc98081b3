"""Collate samples into batches that workers send with few copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from cotap_mm.registry import FUNCTIONS

from .shared_parts import SentParts, claim

_SMALL = 1 << 16  # bytes that are sent through the pipe; shared memory takes longer to set up


@FUNCTIONS.register_module()
def collate_samples(samples: list[Any]) -> Any:
    """Stack samples as :func:`torch.utils.data.default_collate` does, for a loader's workers.

    The main process receives the same batch. Crops that :class:`.NeighborPairs` has cut into
    shared memory are not copied, that memory is used again, and small tensors need none.

    Args:
        samples (list): Samples of the same structure.

    Returns:
        Any: The batch; in a worker it has placeholders, which become tensors when they are sent.
    """
    if get_worker_info() is None:
        return default_collate(samples)
    return _collate(samples)


def _collate(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        claimed = claim(values)
        return _by_value(torch.stack(values)) if claimed is None else _OnlyTensor(claimed)
    if isinstance(first, dict):
        return {key: _collate([value[key] for value in values]) for key in first}
    batch = default_collate(values)
    if isinstance(batch, dict):  # of DecodedImages
        return {
            key: _by_value(value) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }
    return batch


class _OnlyTensor:
    """Becomes the tensor in some shared memory when it is sent."""

    def __init__(self, parts: SentParts) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return _first, (self.parts,)


class _Small:
    """Becomes a tensor that is sent with its bytes."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __reduce__(self) -> Any:
        return _as_tensor, (self.values,)


def _by_value(tensor: Tensor) -> Any:
    return _Small(tensor.numpy()) if tensor.nbytes <= _SMALL else tensor


def _first(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _as_tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)
