"""Collectives that also work without a process group.

Every rank must call these in the same order: a condition around a call must never depend on data
that may differ between ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor

_alone = ContextVar('_alone', default=False)


@contextmanager
def without_other_ranks() -> Iterator[None]:
    """Let this rank compute as if there were no others, in this thread: no collective is called."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    if _alone.get():
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _reduce(tensor: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() > 1:
        moved = _to_backend_device(tensor)
        dist.all_reduce(moved, op=op)
        if moved is not tensor:
            tensor.copy_(moved)
    return tensor


def _to_backend_device(tensor: Tensor) -> Tensor:
    """Move a CPU tensor to the GPU for NCCL, which handles nothing else."""
    if tensor.device.type == 'cpu' and dist.get_backend() == 'nccl':
        return tensor.cuda()
    return tensor


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum ``tensor`` over all ranks, in place. Returns the same tensor."""
    return _reduce(tensor, dist.ReduceOp.SUM) if world_size() > 1 else tensor


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Element-wise maximum of ``tensor`` over all ranks, in place."""
    return _reduce(tensor, dist.ReduceOp.MAX) if world_size() > 1 else tensor


def all_reduce_min(tensor: Tensor) -> Tensor:
    """Element-wise minimum of ``tensor`` over all ranks, in place."""
    return _reduce(tensor, dist.ReduceOp.MIN) if world_size() > 1 else tensor


class HostAgreement:
    """Element-wise maximum of numbers of all ranks, which neither waits for nor uses the GPU.

    With NCCL as the backend, a process group of its own with gloo is created: every rank must
    create and use this object in the same order.
    """

    def __init__(self) -> None:
        self._group: Any = None  # the default one
        self._work: Optional[tuple[Any, Tensor]] = None
        if world_size() > 1 and dist.get_backend() != 'gloo':
            self._group = dist.new_group(backend='gloo')

    @property
    def is_running(self) -> bool:
        """Whether there is an exchange to finish."""
        return self._work is not None

    def start(self, numbers: Sequence[float]) -> None:
        """Start an exchange; return at once.

        Args:
            numbers (Sequence[float]): Numbers of this rank, as many as on the other ranks.
        """
        mine = torch.tensor(numbers, dtype=torch.float64)
        work = dist.all_reduce(mine, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._work = work, mine

    def finish(self) -> list[float]:
        """Wait until all ranks have started the exchange, and return the maxima."""
        assert self._work is not None
        work, maxima = self._work
        self._work = None
        work.wait()
        return maxima.tolist()

    def close(self) -> None:
        """Give the process group up, if it is one of its own."""
        self._work = None
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Overwrite ``tensor`` on every rank, in place, with that of rank ``source``."""
    if world_size() > 1:
        with torch.no_grad():
            moved = _to_backend_device(tensor)
            dist.broadcast(moved, src=source)
            if moved is not tensor:
                tensor.copy_(moved)
    return tensor


@torch.no_grad()
def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, in the order of ranks, on every rank.

    Holds no copy besides the result: each rank sends its rows into their place in it.

    Args:
        rows (Tensor): Shape (n, ...); n may differ between ranks and may be 0.

    Returns:
        Tensor: Shape (sum of n, ...).
    """
    if world_size() == 1:
        return rows
    counts = torch.zeros(world_size(), dtype=torch.long)
    counts[rank()] = len(rows)
    lengths = all_reduce_sum(counts).tolist()
    result = rows.new_empty(sum(lengths), *rows.shape[1:])
    for source, part in enumerate(result.split(lengths)):
        if source == rank():
            part.copy_(rows)
        if len(part):  # the same on all ranks
            broadcast(part, source)
    return result
