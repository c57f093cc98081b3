"""Sums over all ranks that also work without a process group.

Every rank must call these in the same order: callers never put them behind a
condition that data could make differ between ranks.
"""
import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _reduce(tensor: Tensor, op: 'dist.ReduceOp.RedOpType') -> Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor, op=op)
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


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Overwrite ``tensor`` on every rank with rank ``source``'s, in place."""
    if world_size() > 1:
        with torch.no_grad():
            dist.broadcast(tensor, src=source)
    return tensor
