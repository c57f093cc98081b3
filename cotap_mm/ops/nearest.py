"""Nearest-neighbor search by inner product: exact in PyTorch, or with faiss.

:func:`nearest` is a tensor function. :func:`build_search` is not: it returns a search function that
holds the memory, and with a faiss index it copies queries to the CPU and back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional, Union

import torch
from torch import Tensor

# Queries and rows of the memory that are compared at a time: 64 MB of float32 similarities.
BLOCK_SIZE = 4096
# The same on a CPU: 8 MB.
_ON_CPU = (256, 8192)
# The same on a CPU with faiss: 4 MB, which are still in a cache when they are searched.
_WITH_FAISS = (1024, 1024)
# Similarities from which on importing faiss pays.
_MANY = 1 << 20
# Columns of a block with a maximum of their own.
_GROUP = 32
# Cells that an inverted-file index of faiss probes.
FAISS_PROBES = 32

Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Memory = Union[Tensor, Sequence[Tensor]]


@torch.no_grad()
def nearest(
    queries: Tensor,
    memory: Memory,
    k: int,
    block_size: Optional[int] = None,
    allowed: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    """Search the exact k nearest rows by inner product, block by block.

    Never holds more than one block of similarities. Ties are broken arbitrarily. On a CPU, faiss
    selects the k nearest of a block if it is installed, the queries are float32, and there are at
    least 2^20 similarities.

    Args:
        queries (Tensor): Shape (Q, C).
        memory (Tensor | Sequence[Tensor]): Rows to search, shape (M, C), as a whole or in parts;
            blocks are moved to the device of the queries one at a time.
        k (int): Number of neighbors, at most M or the number of allowed rows.
        block_size (int, optional): Queries and rows of the memory that are compared at a time.
            Defaults to None: 1024 of both on a CPU with faiss, 256 queries and 8192 rows without,
            and 4096 of both elsewhere.
        allowed (Tensor, optional): Mask of the rows to search, bool (M,). Defaults to all.

    Returns:
        tuple[Tensor, Tensor]: Similarities (Q, k), in descending order, without gradient, and
        indices into the memory (Q, k).

    Raises:
        ValueError: If ``k`` is out of range.
    """
    parts = [memory] if isinstance(memory, Tensor) else list(memory)
    count = sum(map(len, parts))
    _check_k(k, count if allowed is None else int(allowed.sum()))
    on_cpu, is_large = queries.device.type == 'cpu', len(queries) * count >= _MANY
    pays = on_cpu and is_large and queries.dtype == torch.float32
    faiss = _faiss_if_installed() if pays else None
    if block_size is not None:
        sizes = (block_size, block_size)
    elif faiss is not None:
        sizes = _WITH_FAISS
    else:
        sizes = _ON_CPU if on_cpu else (BLOCK_SIZE, BLOCK_SIZE)
    with contextlib.nullcontext() if faiss is None else _threads_of_torch(faiss):
        results = [
            _search_in_groups(rows, parts, k, sizes[1], allowed)
            if faiss is None
            else _search_with_heaps(faiss, rows, parts, k, sizes[1], allowed)
            for rows in queries.split(sizes[0])
        ]
    if not results:
        return queries.new_empty(0, k), torch.empty(0, k, dtype=torch.long, device=queries.device)
    return torch.cat([best for best, _ in results]), torch.cat([index for _, index in results])


def _check_k(k: int, count: int) -> None:
    if not 1 <= k <= count:
        raise ValueError(
            f'k must be in 1..{count} (patches in the memory), got {k}; lower '
            'k, or give more memory images or a larger memory_size'
        )


def _similarities(
    rows: Tensor, parts: list[Tensor], block_size: int, allowed: Optional[Tensor], multiple: int
) -> Iterator[tuple[int, Tensor]]:
    """Similarities of some rows to the memory, block by block, in memory that is used again.

    Yields:
        tuple[int, Tensor]: Index of the first row of a block, and similarities (q, m), where m is
        the length of the block, rounded up to a multiple and filled up with negative infinity.
    """
    longest = multiple * -(-min(block_size, max(map(len, parts))) // multiple)
    # Written again for each block: a new tensor of this size would cost more than its values.
    space = rows.new_empty(len(rows) * longest)
    start = 0
    for block in (block for part in parts for block in part.split(block_size)):
        width = multiple * -(-len(block) // multiple)
        similarity = space[: len(rows) * width].view(len(rows), width)  # (q, m)
        similarity[:, len(block) :] = -float('inf')
        # Autocast would round similarities to equal values and so lose their order.
        with torch.autocast(rows.device.type, enabled=False):
            torch.mm(rows, block.to(rows.device).T, out=similarity[:, : len(block)])
        if allowed is not None:
            is_allowed = allowed[start : start + len(block)].to(rows.device)
            if not is_allowed.all():
                similarity[:, : len(block)].masked_fill_(~is_allowed, -float('inf'))
        yield start, similarity
        start += len(block)


def _search_with_heaps(
    faiss: Any,
    rows: Tensor,
    parts: list[Tensor],
    k: int,
    block_size: int,
    allowed: Optional[Tensor],
) -> tuple[Tensor, Tensor]:
    """Keep the k best in heaps of faiss, into which each block is merged in one pass."""
    best = torch.empty(len(rows), k)
    index = torch.empty(len(rows), k, dtype=torch.long)
    heaps = faiss.float_minheap_array_t()
    heaps.nh, heaps.k = best.shape
    heaps.val, heaps.ids = faiss.swig_ptr(best.numpy()), faiss.swig_ptr(index.numpy())
    heaps.heapify()
    for start, similarity in _similarities(rows, parts, block_size, allowed, 1):
        heaps.addn(similarity.shape[1], faiss.swig_ptr(similarity.numpy()), start, 0, len(rows))
    heaps.reorder()
    return _mark_missing(best, index)


def _search_in_groups(
    rows: Tensor, parts: list[Tensor], k: int, block_size: int, allowed: Optional[Tensor]
) -> tuple[Tensor, Tensor]:
    """Keep the k best, and sort those groups of a block's columns that can improve them."""
    best = rows.new_full((len(rows), k), -float('inf'))
    index = torch.zeros(len(rows), k, dtype=torch.long, device=rows.device)
    for start, similarity in _similarities(rows, parts, block_size, allowed, _GROUP):
        _merge(best, index, similarity, start)
    return best, index


def _merge(best: Tensor, index: Tensor, similarity: Tensor, start: int) -> None:
    """Replace the k best by better ones of a block, in place.

    Later blocks improve little, and a maximum costs less than a sort. So only those groups of
    columns are sorted whose maximum is better than the worst of the k best.

    Args:
        best (Tensor): Similarities, in descending order, shape (q, k).
        index (Tensor): Their rows in the memory, shape (q, k).
        similarity (Tensor): Those of the block, shape (q, m); m is a multiple of the group.
        start (int): Row of its first column in the memory.
    """
    k, num_groups = best.shape[1], similarity.shape[1] // _GROUP
    # A group has every num_groups-th column: this maximum is over whole rows of memory.
    maxima = similarity.view(-1, _GROUP, num_groups).amax(dim=1)  # (q, groups)
    beats = maxima > best[:, -1:]
    chosen = min(k, int(beats.sum(dim=1).max()))  # of each query, the groups that are sorted
    if not chosen:
        return
    better = beats.any(dim=1).nonzero().flatten()
    first = maxima[better].topk(chosen, dim=1).indices  # (b, chosen)
    members = torch.arange(_GROUP, device=first.device) * num_groups
    columns = (first[:, :, None] + members).flatten(1)  # (b, chosen * group)
    found = similarity.take(better[:, None] * similarity.shape[1] + columns)
    columns = torch.cat([index[better], columns + start], dim=1)
    best[better], order = torch.cat([best[better], found], dim=1).topk(k, dim=1)
    index[better] = columns.gather(1, order)


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


def _faiss_if_installed() -> Optional[Any]:
    try:
        return import_faiss()
    except ImportError:
        return None


@contextlib.contextmanager
def _threads_of_torch(faiss: Any) -> Iterator[None]:
    """Let faiss use as many threads as PyTorch."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def build_search(memory: Tensor, faiss_index: Optional[str] = None) -> Search:
    """Build a search function (queries (Q, C), k) -> similarities and indices, (Q, k) each.

    Args:
        memory (Tensor): Rows to search, shape (M, C).
        faiss_index (str, optional): A faiss index-factory string such as ``'Flat'`` (exact) or
            ``'IVF1024,Flat'`` (approximate, probes 32 cells), on the CPU. Defaults to None:
            exact, by :func:`nearest`, which does not copy the memory.

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
        found = _mark_missing(torch.from_numpy(similarity), torch.from_numpy(indices))
        return found[0].to(queries.device), found[1].to(queries.device)

    return search


def _mark_missing(similarity: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the index -1 of faiss.

    A search that finds fewer than k rows (approximate, or with NaN) pads with index -1: it becomes
    row 0 with the lowest similarity, -1.
    """
    return similarity.masked_fill_(indices < 0, -1), indices.clamp_min_(0)
