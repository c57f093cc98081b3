"""Shared memory that a worker fills, the main process reads, and the worker fills again.

New memory costs a page fault for every 4 KiB, in the worker and in the main process, which can
take half as long as decoding. So a worker keeps its parts, and both processes keep them mapped.
A flag per part, in shared memory, tells the worker that the main process still uses it; the main
process clears it when the last tensor of the part is freed. A worker that finds no free part
takes a new one, so it never waits. Parts of a worker that died are unmapped when another worker
sends its first part.
"""

from __future__ import annotations

import multiprocessing
import os
import uuid
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

PART = 3 << 21  # bytes: 2 million pixels; all parts have a multiple of it
_MOST = 4096  # parts of one worker, 25 GB

_PoolName = tuple[int, str]  # process and a random string, since processes' numbers are reused


def _shared_bytes(number: int) -> Tensor:
    # As in default_collate: share_memory_ would copy.
    storage = torch.UntypedStorage._new_shared(number)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


class Part:
    """Some memory; of a pool, it is free again when it is dropped without being sent.

    Attributes:
        memory (Tensor): The bytes, uint8.
    """

    def __init__(self, memory: Tensor, pool: Optional[_Pool] = None, index: int = -1) -> None:
        self.memory, self.pool, self.index = memory, pool, index
        self.is_sent = False

    def __del__(self) -> None:
        if self.pool is not None and not self.is_sent:
            self.pool.in_use[self.index] = 0


class _Pool:
    """The parts of this worker."""

    def __init__(self) -> None:
        self.name: _PoolName = (os.getpid(), uuid.uuid4().hex)
        self.flags = _shared_bytes(_MOST).zero_()
        self.in_use = self.flags.numpy()
        self.memories: list[Tensor] = []
        self.was_sent = [False] * _MOST
        self.lends = True

    def take(self, number: int) -> Part:
        size = -(-number // PART) * PART
        for index, memory in enumerate(self.memories):
            if not self.in_use[index] and len(memory) == size:
                break
        else:
            index = len(self.memories)
            if index == _MOST:
                return Part(_shared_bytes(size))
            self.memories.append(_shared_bytes(size))
        self.in_use[index] = 1
        return Part(self.memories[index], self, index)


_pool: Optional[_Pool] = None  # of this process, a worker
_lent: dict[int, Part] = {}  # address -> part that was lent for tensors of samples


def _own_pool() -> Optional[_Pool]:
    global _pool
    if get_worker_info() is None:
        return None
    if _pool is None or _pool.name[0] != os.getpid():
        _pool = _Pool()
    return _pool


def take_part(number: int = PART) -> Part:
    """Take memory that nobody else uses; in a worker, shared memory of its pool.

    Args:
        number (int): Minimum number of bytes. Defaults to :data:`PART`.
    """
    pool = _own_pool()
    return Part(torch.empty(number, dtype=torch.uint8)) if pool is None else pool.take(number)


def lend(*shape: int) -> Tensor:
    """Return memory for the tensors of samples, which :func:`claim` finds when they are collated.

    If nobody has claimed what was lent before, the samples are sent in a way that this module
    does not know. So that memory is never used again, and from then on all memory is new.

    Args:
        *shape (int): Shape.
    """
    pool, number = _own_pool(), torch.Size(shape).numel()
    if pool is None or not pool.lends or not number:
        return torch.empty(shape, dtype=torch.uint8)
    part = pool.take(number)
    _lent[part.memory.data_ptr()] = part
    return part.memory[:number].view(shape)


def forget_lent() -> None:
    """Give up what was lent for another batch; called before a batch."""
    for part in _lent.values():
        if part.pool is not None:
            part.pool.lends = False
        part.pool = None  # not free when it is dropped
    _lent.clear()


def claim(tensors: Sequence[Tensor]) -> Optional[SentParts]:
    """Find the memory that was lent for tensors, if they fill it in their order.

    Args:
        tensors (Sequence[Tensor]): Of the same shape.

    Returns:
        SentParts: One tensor, all of them stacked; None if they are in other memory.
    """
    first = tensors[0]
    start, step = first.data_ptr(), first.nbytes
    if start not in _lent or not all(
        each.data_ptr() == start + step * index and each.is_contiguous()
        for index, each in enumerate(tensors)
    ):
        return None
    return SentParts([_lent.pop(start)], [step * len(tensors)], tuple(first.shape))


def views(parts: list[Part], used: list[int], shape: tuple[int, ...]) -> list[Tensor]:
    """Return the used bytes of some parts as tensors (number, *shape)."""
    return [part.memory[:number].view(-1, *shape) for part, number in zip(parts, used)]


class SentParts(list):
    """The used bytes of some parts; pickled by a worker, it becomes a list of tensors.

    Args:
        parts (list[Part]): The parts, which the receiver owns once they have been sent.
        used (list[int]): Number of bytes that are used of each, more than 0.
        shape (tuple[int, ...]): Shape of an element of the tensors.
    """

    def __init__(self, parts: list[Part], used: list[int], shape: tuple[int, ...]) -> None:
        super().__init__(views(parts, used, shape))
        self.parts, self.used, self.shape = parts, used, shape

    def __reduce__(self) -> Any:
        if any(part.is_sent for part in self.parts):
            raise RuntimeError(
                'a worker can send the images of a batch only once, since their memory is used '
                'again; copy the tensors to send them twice'
            )
        pools = [part.pool for part in self.parts]
        if None in pools:  # beyond the pool: sent as any tensor, and never used again
            for part in self.parts:
                part.is_sent = True
            return list, (list(self),)
        pool = pools[0]
        return _receive, (pool.name, *_send(pool, self.parts, self.used), self.shape)


def _send(
    pool: _Pool, parts: list[Part], used: list[int]
) -> tuple[Optional[Tensor], list[tuple[int, int, Optional[Tensor]]]]:
    """Hand over parts; memory goes along the first time only, and with it the flags."""
    rows, flags = [], None
    for part, number in zip(parts, used):
        is_new = not pool.was_sent[part.index]
        pool.was_sent[part.index] = part.is_sent = True
        rows.append((part.index, number, part.memory if is_new else None))
        flags = pool.flags if is_new else flags
    return flags, rows


class _Received(NamedTuple):
    in_use: np.ndarray
    memories: dict[int, np.ndarray]


_received: dict[_PoolName, _Received] = {}


def _receive(
    name: _PoolName,
    flags: Optional[Tensor],
    rows: list[tuple[int, int, Optional[Tensor]]],
    shape: tuple[int, ...],
) -> list[Tensor]:
    if flags is not None and name not in _received:
        _forget_dead_workers()
        _received[name] = _Received(flags.numpy(), {})
    pool = _received[name]
    tensors = []
    for index, number, memory in rows:
        if memory is not None:
            pool.memories[index] = memory.numpy()
        view = pool.memories[index][:number]  # a new array, which the tensor's memory holds
        free = weakref.finalize(view, _give_back, pool.in_use, index, os.getpid())
        free.atexit = False
        tensors.append(torch.from_numpy(view).view(-1, *shape))
    return tensors


def _give_back(in_use: np.ndarray, index: int, process: int) -> None:
    if process == os.getpid():  # not a copy of the tensor in a forked process
        in_use[index] = 0


def _forget_dead_workers() -> None:
    alive = {process.pid for process in multiprocessing.active_children()}
    for name in list(_received):
        if name[0] not in alive:
            _received.pop(name, None)
