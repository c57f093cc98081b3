"""Choose a subset of indices; copy random numbers to the device."""

from __future__ import annotations

from collections.abc import Mapping

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


def copy_together(
    numbers: Mapping[str, Mapping[str, Tensor]], device: torch.device
) -> dict[str, dict[str, Tensor]]:
    """Copy many small CPU tensors to a device in one copy, without waiting for it.

    Args:
        numbers (Mapping[str, Mapping[str, Tensor]]): By owner and name, of any types and shapes.
            A tensor that is not on the CPU is returned as it is.
        device (torch.device): If it is the CPU, nothing is copied.

    Returns:
        dict[str, dict[str, Tensor]]: The same on the device, views of one buffer.
    """
    there = {owner: dict(some) for owner, some in numbers.items()}
    places = [
        (owner, name, value)
        for owner, some in there.items()
        for name, value in some.items()
        if value.device.type == 'cpu'
    ]
    if device.type == 'cpu' or not places:
        return there
    values = [value for *_, value in places]
    copied = _unpack(_pack(values).to(device, non_blocking=True), values)
    for (owner, name, _), value in zip(places, copied):
        there[owner][name] = value
    return there


def _pack(values: list[Tensor]) -> Tensor:
    """Bytes of CPU tensors, those of large elements first, so that all are aligned."""
    parts = [value.reshape(-1).contiguous().view(torch.uint8) for value in _largest_first(values)]
    is_pinned = torch.cuda.is_initialized()  # see pinned()
    size = sum(map(len, parts))
    buffer = torch.empty(size, dtype=torch.uint8, device='cpu', pin_memory=is_pinned)
    return torch.cat(parts, out=buffer)


def _unpack(buffer: Tensor, values: list[Tensor]) -> list[Tensor]:
    """Views of packed bytes with the types and shapes of the packed tensors."""
    packed = _largest_first(values)
    parts = buffer.split([value.numel() * value.element_size() for value in packed])
    views = {
        id(value): part.view(value.dtype).view(value.shape) for value, part in zip(packed, parts)
    }
    return [views[id(value)] for value in values]


def _largest_first(values: list[Tensor]) -> list[Tensor]:
    return sorted(values, key=Tensor.element_size, reverse=True)
