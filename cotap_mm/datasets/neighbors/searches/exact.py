"""Exact search of neighbors by cosine similarity of global features, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from cotap_mm.distributed.failures import show_progress
from cotap_mm.ops.nearest import BLOCK_SIZE, Memory, import_faiss, nearest
from cotap_mm.progress import Progress


class FeatureParts(Sequence[Tensor]):
    """Features of all images, in parts that are tensors or files.

    Args:
        parts (Tensor | sequence[Tensor]): Features of unit length (or zero), shape (N, C), or parts
            of them, such as :class:`.FeatureFile`.
    """

    def __init__(self, parts: Memory) -> None:
        self._parts = [parts] if isinstance(parts, Tensor) else list(parts)
        self._bounds = np.cumsum([0, *map(len, self._parts)])
        self.num_rows = int(self._bounds[-1])

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        """Return one part."""
        return self._parts[number]

    @property
    def width(self) -> int:
        """Channels of a feature."""
        first = self._parts[0]
        return int(getattr(first, 'width', 0) or first[:1].shape[1])

    def rows(self, start: int, stop: int) -> Tensor:
        """Read rows, shape (stop - start, C), float32."""
        return torch.cat(
            [
                part[max(start - low, 0) : max(stop - low, 0)]
                for part, low in zip(self._parts, self._bounds.tolist())
                if low < stop and start < low + len(part)
            ]
        )

    def take(self, indices: np.ndarray) -> Tensor:
        """Read single rows.

        Args:
            indices (np.ndarray): Indices in ascending order, shape (n,).

        Returns:
            Tensor: Shape (n, C), float32.
        """
        cuts = np.searchsorted(indices, self._bounds)
        found = []
        for part, low, first, last in zip(self._parts, self._bounds, cuts[:-1], cuts[1:]):
            if first < last:
                own = indices[first:last] - low
                found.append(
                    part[torch.from_numpy(own)] if isinstance(part, Tensor) else part.take(own)
                )
        return torch.cat(found)


class NeighborSearch:
    """Search the neighbors of rows among all rows.

    Args:
        features (FeatureParts): All features.
        num_neighbors (int): Number of neighbors, k, less than the number of candidates.
        device (str): Device of the products.
        step (int): Rows that are searched at a time.
    """

    def __init__(
        self, features: FeatureParts, num_neighbors: int, device: str, step: int = BLOCK_SIZE
    ) -> None:
        self.features, self.num_neighbors = features, num_neighbors
        self.device, self.step = device, step

    def find(self, queries: Tensor, own: Tensor) -> Tensor:
        """Search the neighbors of a few rows.

        Args:
            queries (Tensor): Their features, shape (q, C).
            own (Tensor): Their indices, shape (q,).

        Returns:
            Tensor: Indices, nearest first and without the row itself, shape (q, k), int64.
        """
        raise NotImplementedError

    def __call__(self, rows: range, progress: Optional[Progress] = None) -> Tensor:
        """Search the neighbors of successive rows.

        Args:
            rows (range): The rows.
            progress (Progress, optional): Counts the rows. Defaults to None.

        Returns:
            Tensor: Indices, shape (rows, k), int64.
        """
        neighbors = torch.empty(len(rows), self.num_neighbors, dtype=torch.long)
        for start in range(rows.start, rows.stop, self.step):
            stop = min(start + self.step, rows.stop)
            found = self.find(self.features.rows(start, stop), torch.arange(start, stop))
            neighbors[start - rows.start : stop - rows.start] = found
            if progress is not None:
                progress.update(stop - start)
            show_progress()
        return neighbors


class ExactSearch(NeighborSearch):
    """Exact search, without storing the similarity matrix.

    Args:
        features (FeatureParts): All features.
        num_neighbors (int): Number of neighbors, k, less than the number of candidates.
        device (str): Device of the products. Defaults to ``'cpu'``.
        is_candidate (Tensor, optional): Rows that may be neighbors, bool (N,). Defaults to None,
            all.
        block (int, optional): Rows and columns of one product. Defaults to that of
            :func:`cotap_mm.ops.nearest.nearest`.
        use_faiss (bool): Search with faiss on the CPU, which must be installed. Defaults to
            False: on a CPU with faiss if it is installed.
    """

    def __init__(
        self,
        features: FeatureParts,
        num_neighbors: int,
        device: str = 'cpu',
        is_candidate: Optional[Tensor] = None,
        block: Optional[int] = None,
        use_faiss: bool = False,
    ) -> None:
        if use_faiss:
            import_faiss()
            device = 'cpu'
        super().__init__(features, num_neighbors, device, block or BLOCK_SIZE)
        self.is_candidate, self.block = is_candidate, block

    def find(self, queries: Tensor, own: Tensor) -> Tensor:
        """Search the neighbors of a few rows, see :meth:`NeighborSearch.find`."""
        wanted, queries = self.num_neighbors + 1, queries.to(self.device)
        near = nearest(queries, self.features, wanted, self.block, self.is_candidate)[1].cpu()
        return move_to_end(near, near == own[:, None])[:, : self.num_neighbors]


def move_to_end(near: Tensor, is_unwanted: Tensor) -> Tensor:
    """Move unwanted neighbors to the end of each row; the others keep their order."""
    return near.gather(1, is_unwanted.int().argsort(dim=1, stable=True))


@torch.no_grad()
def search_neighbors(
    features: Memory,
    num_neighbors: int,
    device: str = 'cpu',
    is_candidate: Optional[Tensor] = None,
    block: Optional[int] = None,
    rows: Optional[range] = None,
    use_faiss: bool = False,
) -> Tensor:
    """Exact nearest neighbors by cosine similarity, without storing the similarity matrix.

    Args:
        features (Tensor | sequence[Tensor]): Features of unit length (or zero), shape (N, C), or
            parts of them.
        num_neighbors (int): Number of neighbors, k, less than the number of candidates.
        device (str): Device of the products. Defaults to ``'cpu'``.
        is_candidate (Tensor, optional): Rows that may be neighbors, bool (N,). Defaults to None,
            all.
        block (int, optional): Rows and columns of one product, which needs about
            8 * block^2 bytes. Defaults to that of :func:`cotap_mm.ops.nearest.nearest`.
        rows (range, optional): Rows whose neighbors are searched. Defaults to None, all.
        use_faiss (bool): Search with faiss on the CPU, which must be installed. Defaults to
            False: on a CPU with faiss if it is installed.

    Returns:
        Tensor: Indices, nearest first and without the row itself, shape (rows, k), int64.
    """
    parts = FeatureParts(features)
    rows = range(parts.num_rows) if rows is None else rows
    search = ExactSearch(parts, num_neighbors, device, is_candidate, block, use_faiss)
    with Progress(len(rows), 'nearest neighbors') as progress:
        return search(rows, progress)
