"""Nearest rows of a memory: exactly and block by block, or with faiss."""
from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor

# Rows of queries x rows of memory that are compared at a time: 64 MB of float32.
BLOCK_SIZE = 4096
# Cells that an inverted-file index of faiss looks into.
FAISS_PROBES = 32

Search = Callable[[Tensor, int], Tuple[Tensor, Tensor]]


def nearest(queries: Tensor,
            memory: Tensor,
            k: int,
            block_size: int = BLOCK_SIZE) -> Tuple[Tensor, Tensor]:
    """Exact k nearest rows by inner product, block by block.

    Never holds more than ``block_size`` x ``block_size`` similarities.

    Args:
        queries (Tensor): Shape (Q, C).
        memory (Tensor): Shape (M, C), M >= k.
        k (int): Number of neighbours.
        block_size (int): Rows of either side that are compared at a time.

    Returns:
        tuple: Similarities (Q, k), largest first, and indices into the memory (Q, k).

    Raises:
        ValueError: If the memory has fewer than k rows.
    """
    if not 1 <= k <= len(memory):
        raise ValueError(f'k must be in 1..{len(memory)} (patches in the memory), got {k}; lower '
                         'k, or give more memory images or a larger memory_size')
    found = []
    for rows in queries.split(block_size):
        best = rows.new_empty((len(rows), 0))
        index = torch.empty((len(rows), 0), dtype=torch.long, device=rows.device)
        for start in range(0, len(memory), block_size):
            similarity = rows @ memory[start:start + block_size].T  # (q, m)
            top, here = similarity.topk(min(k, similarity.shape[1]), dim=1)
            best, index = torch.cat([best, top], 1), torch.cat([index, here + start], 1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            index = index.gather(1, order)
        found.append((best, index))
    return torch.cat([best for best, _ in found]), torch.cat([index for _, index in found])


def build_search(memory: Tensor, faiss_index: Optional[str] = None) -> Search:
    """A function (queries (Q, C), k) -> similarities and indices, both (Q, k).

    Args:
        memory (Tensor): Rows to search, shape (M, C).
        faiss_index (str, optional): A faiss index-factory string such as ``'Flat'`` (exact) or
            ``'IVF1024,Flat'`` (approximate, looks into 32 cells), on the CPU. Defaults to
            None: :func:`nearest`, exact, where the memory is.

    Raises:
        ValueError: If faiss is not installed or does not know the index.
    """
    if faiss_index is None:
        return lambda queries, k: nearest(queries, memory, k)
    try:
        import faiss
    except ImportError as error:
        raise ValueError('faiss_index needs faiss: pip install faiss-cpu, or leave the option '
                         'out') from error
    rows = memory.float().cpu().numpy()
    try:
        index: Any = faiss.index_factory(rows.shape[1], faiss_index, faiss.METRIC_INNER_PRODUCT)
        index.train(rows)
    except RuntimeError as error:
        raise ValueError(f'faiss cannot make the index {faiss_index!r} of {len(rows)} rows of '
                         f"{rows.shape[1]}; try 'Flat'. faiss says: {error}") from error
    index.add(rows)
    if hasattr(index, 'nprobe'):
        index.nprobe = FAISS_PROBES

    def search(queries: Tensor, k: int) -> Tuple[Tensor, Tensor]:
        if not 1 <= k <= len(rows):
            raise ValueError(f'k must be in 1..{len(rows)} (rows in the memory), got {k}')
        similarity, found = index.search(queries.float().cpu().numpy(), k)
        # Where an approximate index found fewer than k, it repeats -1: keep the best instead.
        similarity = torch.from_numpy(similarity).masked_fill(torch.from_numpy(found < 0), -1)
        found = torch.from_numpy(found).clamp_min(0)
        return similarity.to(queries.device), found.to(queries.device)

    return search
