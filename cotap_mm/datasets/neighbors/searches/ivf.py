"""Approximate search of neighbors through an inverted file of faiss, for millions of images.

The features are sorted into cells around centroids, and only the ``nprobe`` cells nearest to an
image are searched, so that the time grows with about N^1.5 instead of N^2. Up to 16 GB the index
keeps the features (IVF-Flat), and the order of what the probed cells contain is exact. Beyond, it
keeps codes of a product quantizer (IVF-PQ, with an HNSW graph over the centroids), and the nearest
codes are sorted by the features on the disk.

The ranks build the index together, in shards that are kept if a run is interrupted, and share one
memory-mapped file of it.
"""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.distributed.collectives import rank, world_size
from cotap_mm.distributed.failures import show_progress
from cotap_mm.distributed.file_barrier import SharedBuild
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.ops.nearest import import_faiss
from cotap_mm.progress import Progress

from .exact import ExactSearch, FeatureParts, NeighborSearch, move_to_end

_MOST_BYTES = 16 << 30  # of an index with all features
_MOST_CELLS = 1 << 16
_PER_CELL = 39  # rows that faiss wants to train a centroid
_TRAINED_PER_CELL = 64
_ROUNDS = 10  # of k-means
_SHARDS = 64  # at most
_STEP = 1024  # rows that are searched at a time
_REFINED = 8  # nearest codes per neighbor that are sorted by their features


def choose_index(count: int, width: int) -> str:
    """Choose the index by the number and width of the features, as a factory string of faiss.

    Args:
        count (int): Number of images, N.
        width (int): Channels of a feature, C.
    """
    cells = max(min(round(4 * math.sqrt(count)), count // _PER_CELL, _MOST_CELLS), 1)
    # Not in float16: rounded lengths would change the order of features that are almost parallel.
    if 4 * count * width <= _MOST_BYTES:
        return f'IVF{cells},Flat'
    codes = max(size for size in range(1, width // 8 + 1) if width % size == 0)
    return f'IVF{cells}_HNSW32,PQ{codes}'


class IvfIndexBuild:
    """Build an inverted file on all ranks of a :class:`SharedBuild`.

    Args:
        build (SharedBuild): Files next to the neighbor file.
        features (FeatureParts): All features.
        is_candidate (Tensor): Rows that may be neighbors, bool (N,).
        task (str): Identifies the features.
    """

    def __init__(
        self, build: SharedBuild, features: FeatureParts, is_candidate: Tensor, task: str
    ) -> None:
        self.build, self.features, self.is_candidate = build, features, is_candidate
        self.faiss = import_faiss()
        self.factory = choose_index(int(is_candidate.sum()), features.width)
        self._digest = hashlib.sha256(f'{task}\n{self.factory}'.encode()).hexdigest()[:8]
        self._shard = math.ceil(features.num_rows / min(_SHARDS, max(features.num_rows // 8192, 1)))

    def run(self) -> Path:
        """Build the index, or continue to; every rank must call this.

        Returns:
            Path: The index, which all ranks can read.
        """
        starts = range(0, self.features.num_rows, self._shard)
        shards = [self._path(number) for number in range(len(starts))]
        trained, whole = self._path('trained'), self._path('whole')
        if rank() == 0 and not trained.is_file() and not whole.is_file():
            self._write(self._train(), trained)
        self.build.wait(lambda: trained.is_file() or whole.is_file())
        own = [number for number in range(len(starts)) if number % world_size() == rank()]
        with Progress(len(own), 'shards of the index') as progress:
            for number in own:
                if not shards[number].is_file() and not whole.is_file():
                    self._write(self._fill(trained, starts[number]), shards[number])
                progress.update()
        if rank() == 0 and not whole.is_file():
            for path in shards:
                self.build.wait(path.is_file)
            index = self._read(shards[0])
            for path in shards[1:]:
                index.merge_from(self._read(path), 0)
                show_progress()
            self._write(index, whole)
        self.build.wait(whole.is_file)
        return whole

    def _path(self, number: int | str) -> Path:
        return self.build.part('ivf', self._digest, number)

    def _train(self) -> Any:
        """Train the centroids (and codes) on a sample of the features."""
        index = self.faiss.index_factory(
            self.features.width, self.factory, self.faiss.METRIC_INNER_PRODUCT
        )
        index.cp.niter = _ROUNDS
        candidates = self.is_candidate.nonzero().flatten().numpy()
        size = min(len(candidates), max(_TRAINED_PER_CELL * index.nlist, 1 << 14))
        sample = np.random.default_rng(0).choice(candidates, size, replace=False)
        rows = self.features.take(np.sort(sample)).numpy()
        index.train(rows)
        return index

    def _fill(self, trained: Path, start: int) -> Any:
        """Add the features of one shard to a trained index."""
        index = self._read(trained)
        stop = min(start + self._shard, self.features.num_rows)
        for low in range(start, stop, 8192):
            high = min(low + 8192, stop)
            is_candidate = self.is_candidate[low:high]
            rows = self.features.rows(low, high)[is_candidate]
            ids = torch.arange(low, high)[is_candidate]
            index.add_with_ids(rows.numpy(), ids.numpy())
            show_progress()
        return index

    def _write(self, index: Any, path: Path) -> None:
        with atomic_write(path) as partial:
            self.faiss.write_index(index, str(partial))

    def _read(self, path: Path) -> Any:
        return read_index(path)


def read_index(path: Path, flags: int = 0) -> Any:
    """Read an index of faiss.

    Raises:
        UserError: If it is damaged.
    """
    try:
        return import_faiss().read_index(str(path), flags)
    except RuntimeError as error:
        raise UserError(
            f'{path} is damaged; delete it and start again, the features are kept. faiss reports: '
            f'{str(error)[-200:]}'
        ) from error


class IvfSearch(NeighborSearch):
    """Search in an inverted file; an image with too few neighbors there is searched exactly.

    On a GPU, faiss-gpu is used if it is installed.

    Args:
        path (Path): The index, of :class:`IvfIndexBuild`.
        features (FeatureParts): All features.
        num_neighbors (int): Number of neighbors, k, less than the number of candidates.
        is_candidate (Tensor): Rows that may be neighbors, bool (N,).
        device (str): Device of exact searches, and of faiss-gpu. Defaults to ``'cpu'``.
        nprobe (int): Cells that are searched for each image. Defaults to 32.

    Attributes:
        num_exact (int): Rows that had too few neighbors in the probed cells so far.
    """

    def __init__(
        self,
        path: Path,
        features: FeatureParts,
        num_neighbors: int,
        is_candidate: Tensor,
        device: str = 'cpu',
        nprobe: int = 32,
    ) -> None:
        super().__init__(features, num_neighbors, device, _STEP)
        self.exact = ExactSearch(features, num_neighbors, device, is_candidate)
        self.num_exact = 0
        self._index = _move_to_gpu(path, device)
        if self._index is None:  # mapped: one copy in memory for all ranks of a machine
            self._index = read_index(path, import_faiss().IO_FLAG_MMAP)
            lists = import_faiss().downcast_InvertedLists(self._index.invlists)
            lists.prefetch_nthread = 0  # by default 32 threads in every search
        self._index.nprobe = nprobe
        self._refines = 'PQ' in type(self._index).__name__

    def find(self, queries: Tensor, own: Tensor) -> Tensor:
        """Search the neighbors of a few rows, see :meth:`NeighborSearch.find`."""
        wanted = self.num_neighbors + 1
        wanted = wanted * _REFINED if self._refines else wanted
        near = torch.from_numpy(self._index.search(queries.numpy(), wanted)[1])
        if self._refines:
            near = self._sorted_by_features(queries, near)
        near = move_to_end(near, (near == own[:, None]) | (near < 0))[:, : self.num_neighbors]
        is_short = ((near == own[:, None]) | (near < 0)).any(dim=1)
        if is_short.any():
            self.num_exact += int(is_short.sum())
            near[is_short] = self.exact.find(queries[is_short], own[is_short])
        return near

    def _sorted_by_features(self, queries: Tensor, near: Tensor) -> Tensor:
        """Sort what the codes found by the similarity of the features on the disk."""
        sorted_rows = []
        for rows, found in zip(queries.split(256), near.split(256)):
            indices, where = found.clamp_min(0).unique(return_inverse=True)
            features = self.features.take(indices.numpy())[where]  # (q, r, C)
            similarity = torch.einsum('qc,qrc->qr', rows, features)
            similarity.masked_fill_(found < 0, -math.inf)
            sorted_rows.append(found.gather(1, similarity.argsort(dim=1, descending=True)))
        return torch.cat(sorted_rows)


def _move_to_gpu(path: Path, device: str) -> Optional[Any]:
    """Copy an index to a GPU; None without faiss-gpu, or if it cannot hold the index."""
    faiss = import_faiss()
    if not device.startswith('cuda') or not hasattr(faiss, 'StandardGpuResources'):
        return None
    try:
        number = torch.device(device).index or 0
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), number, read_index(path))
    except RuntimeError as error:
        print_log(
            f'faiss searches on the CPU, because the GPU cannot hold its index: {error}',
            logger='current',
            level=logging.WARNING,
        )
        return None
