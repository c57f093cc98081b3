"""Validate the content of an untrusted checkpoint before anything is computed with it.

A few kilobytes can describe terabytes: tensors with stride 0, many views of one storage,
compressed archives, arrays with a shape but no data. Content that passes these checks takes at
most :data:`MAX_EXPANSION` times the size of the file in memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Bytes of all tensors per byte of the file. More than 1, since tied weights are stored once.
MAX_EXPANSION = 4
MOST_REGISTERS = 16
_MAX_ITEMS = 2_000_000  # total number of entries of all containers
_SLACK = 1 << 20  # bytes; small files can have tensors that share a storage


class SuspectContent(ValueError):
    """The content of a file does not fit a checkpoint of its size."""


class QuantizedContent(ValueError):
    """A file has PyTorch's quantized tensors."""


def check_archive(path: Path) -> None:
    """Reject a zip archive that expands when it is unpacked.

    PyTorch and NumPy's ``savez`` do not compress.

    Raises:
        SuspectContent: If the members, by the sizes in the directory, are larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except Exception:  # damaged in another way, which the reader reports
        return
    size = path.stat().st_size
    if unpacked > size:
        raise SuspectContent(
            f'its members take {unpacked} bytes unpacked, and the file has {size}; '
            'checkpoints are stored without compression'
        )


def check_content(content: Any, file_size: int) -> None:
    """Reject tensors that are larger than the file, or are not stored densely.

    Args:
        content (object): Dicts, lists and tuples of tensors and anything else; they may
            contain themselves.
        file_size (int): Size of the file in bytes.

    Raises:
        QuantizedContent: If a tensor is quantized.
        SuspectContent: With the key of the first rejected tensor.
    """
    total, stored, storages = 0, 0, set()
    for key, value in _tensors(content):
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in 'fiub':
                continue
            total += value.nbytes
        else:
            if value.is_quantized:
                raise QuantizedContent(
                    f'the weights are quantized ({key}, {str(value.dtype).split(".")[-1]}), but '
                    'training and features need weights of 16 or 32 bits; use the file that is not '
                    'quantized'
                )
            if value.layout != torch.strided or value.device.type == 'meta' or value.is_nested:
                raise SuspectContent(
                    f'{key!r} is a {_kind(value)} tensor; only dense tensors are supported'
                )
            size = value.numel() * value.element_size()
            storage = value.untyped_storage()
            if size > storage.nbytes():
                raise SuspectContent(
                    f'{key!r} has shape {tuple(value.shape)}, but only '
                    f'{storage.nbytes()} bytes are stored for it'
                )
            if storage.data_ptr() not in storages:
                storages.add(storage.data_ptr())
                stored += storage.nbytes()
            total += size
        if total > MAX_EXPANSION * file_size + _SLACK or stored > file_size + _SLACK:
            raise SuspectContent(
                f'the tensors up to {key!r} take {max(total, stored)} bytes, and '
                f'the file has {file_size}'
            )


def _tensors(content: Any) -> Iterator[tuple[str, Any]]:
    """Iterate over the tensors and arrays of nested containers, with their dotted keys."""
    waiting, seen, items = [('', content)], set(), 0
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, (Tensor, np.ndarray)):
            yield key, value
            continue
        if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        items += len(value)
        if items > _MAX_ITEMS:
            raise SuspectContent(f'it has more than {_MAX_ITEMS} entries')
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        waiting.extend((f'{key}.{_short(name)}'.lstrip('.'), part) for name, part in pairs)


def _short(name: Any) -> str:
    return (
        name[:200]
        if isinstance(name, str)
        else str(name)[:200]
        if isinstance(name, (int, float))
        else type(name).__name__
    )


def _kind(value: Tensor) -> str:
    if value.is_nested:
        return 'nested'
    return 'meta' if value.device.type == 'meta' else str(value.layout).split('.')[-1]


def check_weights(tensors: dict[str, Tensor]) -> None:
    """Reject a ViT with a wrong data type or inconsistent embeddings.

    Args:
        tensors (dict[str, Tensor]): In the layout of the algorithm (``backbone.*``, ...).

    Raises:
        ValueError: If a tensor is not floating-point, or the shapes of patch embedding, CLS
            token and position embeddings do not match.
    """
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise ValueError(
                f'{name} has data type {str(value.dtype).split(".")[-1]}; weights must be '
                'floating-point'
            )
    patch = tensors.get('backbone.patch_embed.projection.weight')
    if patch is None or patch.ndim != 4 or min(patch.shape) < 1 or patch.shape[2] != patch.shape[3]:
        raise ValueError(
            'the patch embedding must have shape (width, channels, p, p), got '
            f'{"none" if patch is None else tuple(patch.shape)}'
        )
    width = patch.shape[0]
    positions = tensors.get('backbone.pos_embed')
    if positions is not None and (
        positions.ndim != 3
        or positions.shape[0] != 1
        or positions.shape[1] < 1
        or positions.shape[2] != width
    ):
        raise ValueError(
            f'position embeddings must have shape (1, N, {width}), got {tuple(positions.shape)}'
        )
    if 'backbone.cls_token' in tensors:
        _check_shape(tensors, 'backbone.cls_token', (1, 1, width))
    registers = tensors.get('backbone.register_tokens')
    if registers is not None and not (
        registers.ndim == 3
        and registers.shape[0] == 1
        and 1 <= registers.shape[1] <= MOST_REGISTERS
        and registers.shape[2] == width
    ):
        raise ValueError(
            f'registers must have shape (1, 1 to {MOST_REGISTERS}, {width}), got '
            f'{tuple(registers.shape)}'
        )
    periods = tensors.get('backbone.rope.periods')
    if periods is not None and not (
        periods.ndim == 1 and len(periods) and bool((periods > 0).all() & periods.isfinite().all())
    ):
        raise ValueError('the periods of the rotary positions must be positive numbers')


def check_network(tensors: dict[str, Tensor]) -> None:
    """Reject a ViT that is incomplete or inconsistent.

    The caller is about to build a network of these sizes, so every tensor that its size depends
    on must be present.

    Args:
        tensors (dict[str, Tensor]): Tensors that have passed :func:`check_weights`.

    Raises:
        ValueError: If a tensor is missing or has the wrong shape.
    """
    width = tensors['backbone.patch_embed.projection.weight'].shape[0]
    is_rotary = 'backbone.rope.periods' in tensors
    for name, reason in _REASONS.items():
        if f'backbone.{name}' not in tensors and not (is_rotary and name == 'pos_embed'):
            raise ValueError(f'backbone.{name} is missing: {reason}')
    gated = 'backbone.layers.0.ffn.w12.weight' in tensors
    for index in _blocks(tensors):
        block = f'backbone.layers.{index}.'
        enter, leave = ('ffn.w12', 'ffn.w3') if gated else ('ffn.layers.0.0', 'ffn.layers.1')
        last = tensors.get(f'{block}{leave}.weight')
        hidden = last.shape[1] if last is not None and last.ndim == 2 else 1
        for name, shape in (
            ('attn.qkv', (3 * width, width)),
            ('attn.proj', (width, width)),
            (enter, ((1 + gated) * hidden, width)),
            (leave, (width, hidden)),
            ('ln1', (width,)),
            ('ln2', (width,)),
        ):
            _check_shape(tensors, f'{block}{name}.weight', shape)
    prototypes = tensors.get('neck.prototypes')
    if prototypes is not None and (
        prototypes.ndim != 4 or len(prototypes) < 1 or tuple(prototypes.shape[1:]) != (width, 3, 3)
    ):
        raise ValueError(
            f'object prototypes must have shape (M, {width}, 3, 3), got {tuple(prototypes.shape)}'
        )


_REASONS = dict(
    cls_token='foreground and filter need a CLS token, which SigLIP, I-JEPA and networks with '
    'average pooling do not have; choose a ViT with one',
    pos_embed='a ViT without position embeddings is supported only if its rotary positions are '
    'those of DINOv3; choose another one',
)


def _blocks(tensors: dict[str, Tensor]) -> list[int]:
    """List the indices of the transformer blocks, which must be 0, 1, 2, ..."""
    names = {name.split('.')[2] for name in tensors if name.startswith('backbone.layers.')}
    if names != {str(index) for index in range(len(names))} or not names:
        shown = sorted(names)[:3]
        raise ValueError(
            f'the blocks must be numbered from 0 without gaps, got {len(names)} '
            f'blocks{": " if shown else ""}{", ".join(shown)}'
        )
    return list(range(len(names)))


def _check_shape(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    value = tensors.get(name)
    if value is None:
        raise ValueError(f'{name} is missing')
    if tuple(value.shape) != shape or min(shape) < 1:
        raise ValueError(f'{name} must have shape {shape}, got {tuple(value.shape)}')
