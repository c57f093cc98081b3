"""Nearest rows of a memory: exactly and block by block, or with faiss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

import torch
from torch import Tensor

# Rows of queries x rows of memory that are compared at a time: 64 MB of float32.
BLOCK_SIZE = 4096
# Cells that an inverted-file index of faiss looks into.
FAISS_PROBES = 32

Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Memory = Union[Tensor, Sequence[Tensor]]


def nearest(
    queries: Tensor,
    memory: Memory,
    k: int,
    block_size: Optional[int] = None,
    allowed: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    """Exact k nearest rows by inner product, block by block.

    Never holds more than ``block_size`` x ``block_size`` similarities. Of equal ones,
    any is found.

    Args:
        queries (Tensor): Shape (Q, C).
        memory (Tensor | sequence[Tensor]): Shape (M, C), or parts of it; each block is
            moved to the queries' device when it is its turn.
        k (int): Number of neighbours, at most M, or the number of rows that are allowed.
        block_size (int, optional): Rows of either side that are compared at a time.
            Defaults to None: 1024 on a CPU, whose caches then help, and 4096 elsewhere.
        allowed (Tensor, optional): Rows of the memory that may be found, bool (M,).

    Returns:
        tuple: Similarities (Q, k), largest first, and indices into the memory (Q, k).

    Raises:
        ValueError: If the memory has fewer than k rows.
    """
    parts = [memory] if isinstance(memory, Tensor) else list(memory)
    count = sum(map(len, parts)) if allowed is None else int(allowed.sum())
    if not 1 <= k <= count:
        raise ValueError(
            f'k must be in 1..{count} (patches in the memory), got {k}; lower '
            'k, or give more memory images or a larger memory_size'
        )
    if block_size is None:
        block_size = 1024 if queries.device.type == 'cpu' else BLOCK_SIZE
    found = [_nearest_of(rows, parts, k, block_size, allowed) for rows in queries.split(block_size)]
    if not found:
        return queries.new_empty(0, k), torch.empty(0, k, dtype=torch.long, device=queries.device)
    return torch.cat([best for best, _ in found]), torch.cat([index for _, index in found])


def _nearest_of(
    rows: Tensor, parts: list[Tensor], k: int, block_size: int, allowed: Optional[Tensor]
) -> tuple[Tensor, Tensor]:
    best = rows.new_full((len(rows), k), -float('inf'))
    index = torch.zeros(len(rows), k, dtype=torch.long, device=rows.device)
    start = 0
    for block in (block for part in parts for block in part.split(block_size)):
        similarity = rows @ block.to(rows.device).T  # (q, m)
        if allowed is not None:
            here = allowed[start : start + len(block)].to(rows.device)
            similarity.masked_fill_(~here, -float('inf'))
        # Later blocks hold better ones for few rows only, and a maximum costs less than a topk.
        better = (similarity.amax(dim=1) > best[:, -1]).nonzero().flatten()
        if len(better) < len(rows):
            similarity = similarity[better]
        top, where = similarity.topk(min(k, similarity.shape[1]), dim=1)
        merged, order = torch.cat([best[better], top], dim=1).topk(k, dim=1)
        best[better] = merged
        index[better] = torch.cat([index[better], where + start], dim=1).gather(1, order)
        start += len(block)
    return best, index


def import_faiss() -> Any:
    """The faiss library, or an ImportError that says how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'faiss is not installed: pip install faiss-cpu, or search without it'
        ) from error
    return faiss


def build_search(memory: Tensor, faiss_index: Optional[str] = None) -> Search:
    """A function (queries (Q, C), k) -> similarities and indices, both (Q, k).

    Args:
        memory (Tensor): Rows to search, shape (M, C).
        faiss_index (str, optional): A faiss index-factory string such as ``'Flat'`` (exact) or
            ``'IVF1024,Flat'`` (approximate, looks into 32 cells), on the CPU. Defaults to
            None: :func:`nearest`, exact, where the memory is.

    Raises:
        ValueError: If faiss does not know the index.
        ImportError: If faiss is not installed.
    """
    if faiss_index is None:
        return lambda queries, k: nearest(queries, memory, k)
    faiss = import_faiss()
    rows = memory.float().cpu().numpy()
    try:
        index: Any = faiss.index_factory(rows.shape[1], faiss_index, faiss.METRIC_INNER_PRODUCT)
        index.train(rows)
    except RuntimeError as error:
        raise ValueError(
            f'faiss cannot make the index {faiss_index!r} of {len(rows)} rows of '
            f"{rows.shape[1]}; try 'Flat'. faiss says: {error}"
        ) from error
    index.add(rows)
    if hasattr(index, 'nprobe'):
        index.nprobe = FAISS_PROBES

    def search(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if not 1 <= k <= len(rows):
            raise ValueError(f'k must be in 1..{len(rows)} (rows in the memory), got {k}')
        similarity, found = index.search(queries.float().cpu().numpy(), k)
        # Where an approximate index found fewer than k, it repeats -1: keep the best instead.
        similarity = torch.from_numpy(similarity).masked_fill(torch.from_numpy(found < 0), -1)
        found = torch.from_numpy(found).clamp_min(0)
        return similarity.to(queries.device), found.to(queries.device)

    return search
