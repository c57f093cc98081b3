"""Nearest-neighbor search by inner product: exact in PyTorch, or with faiss.

:func:`nearest` is a tensor function. :func:`build_search` is not: it returns a search function that
holds the memory, and with a faiss index it copies queries to the CPU and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

import torch
from torch import Tensor

# Queries and rows of the memory that are compared at a time: 64 MB of float32 similarities.
BLOCK_SIZE = 4096
# Cells that an inverted-file index of faiss probes.
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
    """Search the exact k nearest rows by inner product, block by block.

    Never holds more than ``block_size`` x ``block_size`` similarities. Ties are broken
    arbitrarily.

    Args:
        queries (Tensor): Shape (Q, C).
        memory (Tensor | Sequence[Tensor]): Rows to search, shape (M, C), as a whole or in parts;
            blocks are moved to the device of the queries one at a time.
        k (int): Number of neighbors, at most M or the number of allowed rows.
        block_size (int, optional): Queries and rows of the memory that are compared at a time.
            Defaults to None: 1024 on a CPU, so that blocks fit its caches, and 4096 elsewhere.
        allowed (Tensor, optional): Mask of the rows to search, bool (M,). Defaults to all.

    Returns:
        tuple[Tensor, Tensor]: Similarities (Q, k), in descending order, and indices into the
        memory (Q, k).

    Raises:
        ValueError: If ``k`` is out of range.
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
    results = [
        _search_block(rows, parts, k, block_size, allowed) for rows in queries.split(block_size)
    ]
    if not results:
        return queries.new_empty(0, k), torch.empty(0, k, dtype=torch.long, device=queries.device)
    return torch.cat([best for best, _ in results]), torch.cat([index for _, index in results])


def _search_block(
    rows: Tensor, parts: list[Tensor], k: int, block_size: int, allowed: Optional[Tensor]
) -> tuple[Tensor, Tensor]:
    best = rows.new_full((len(rows), k), -float('inf'))
    index = torch.zeros(len(rows), k, dtype=torch.long, device=rows.device)
    start = 0
    for block in (block for part in parts for block in part.split(block_size)):
        # Autocast would round similarities to equal values and so lose their order.
        with torch.autocast(rows.device.type, enabled=False):
            similarity = rows @ block.to(rows.device).T  # (q, m)
        if allowed is not None:
            is_allowed = allowed[start : start + len(block)].to(rows.device)
            similarity.masked_fill_(~is_allowed, -float('inf'))
        # Later blocks improve few queries only, and a maximum costs less than a topk.
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
    """Import faiss.

    Raises:
        ImportError: If faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'faiss is not installed: pip install faiss-cpu, or search without it'
        ) from error
    return faiss


def build_search(memory: Tensor, faiss_index: Optional[str] = None) -> Search:
    """Build a search function (queries (Q, C), k) -> similarities and indices, (Q, k) each.

    Args:
        memory (Tensor): Rows to search, shape (M, C).
        faiss_index (str, optional): A faiss index-factory string such as ``'Flat'`` (exact) or
            ``'IVF1024,Flat'`` (approximate, probes 32 cells), on the CPU. Defaults to None:
            :func:`nearest`, exact.

    Returns:
        Callable: The search function.

    Raises:
        ValueError: If faiss cannot build the index.
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
            f'faiss cannot build the index {faiss_index!r} for {len(rows)} rows of width '
            f"{rows.shape[1]}; try 'Flat'. faiss reports: {error}"
        ) from error
    index.add(rows)
    if hasattr(index, 'nprobe'):
        index.nprobe = FAISS_PROBES

    def search(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if not 1 <= k <= len(rows):
            raise ValueError(f'k must be in 1..{len(rows)} (rows in the memory), got {k}')
        similarity, indices = index.search(queries.float().cpu().numpy(), k)
        # An approximate index that finds fewer than k rows pads with index -1: replace it by row 0
        # with the lowest similarity, -1.
        similarity = torch.from_numpy(similarity).masked_fill(torch.from_numpy(indices < 0), -1)
        indices = torch.from_numpy(indices).clamp_min(0)
        return similarity.to(queries.device), indices.to(queries.device)

    return search
