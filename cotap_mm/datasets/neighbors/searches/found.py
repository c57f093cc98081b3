"""Neighbors that have been found so far, in files that an interrupted search continues from."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import numpy as np
from mmengine.logging import print_log

from cotap_mm.datasets.neighbors.array_file import is_wrong
from cotap_mm.distributed.collectives import rank, world_size
from cotap_mm.distributed.file_barrier import SharedBuild
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.progress import Progress

from .exact import NeighborSearch

_PART = 8192  # images per file


class FoundParts:
    """Neighbors of all images, in parts that are sharded across ranks.

    Args:
        build (SharedBuild): Files next to the neighbor file.
        task (str): Everything that the neighbors depend on.
        shape (tuple[int, int]): Number of images and of neighbors, (N, k).
    """

    def __init__(self, build: SharedBuild, task: str, shape: tuple[int, int]) -> None:
        self.build, self.shape = build, shape
        size = min(_PART, math.ceil(shape[0] / world_size()))
        digest = hashlib.sha256(f'{task}\n{shape}\n{size}'.encode()).hexdigest()[:8]
        starts = range(0, shape[0], size)
        self._rows = [range(start, min(start + size, shape[0])) for start in starts]
        self._paths = [build.part('found', digest, number) for number in range(len(starts))]
        self._own = [n for n in range(len(starts)) if n % world_size() == rank()]

    def compute(self, search: NeighborSearch) -> None:
        """Search the neighbors of the parts of this rank that are missing."""
        total = sum(len(self._rows[number]) for number in self._own)
        with Progress(total, 'nearest neighbors') as progress:
            for number in self._own:
                rows, path = self._rows[number], self._paths[number]
                if self._read(path, rows) is not None:
                    progress.update(len(rows), is_new=False)
                    continue
                found = search(rows, progress).numpy().astype(np.int32)
                with atomic_write(path) as partial, open(partial, 'wb') as file:
                    np.savez(file, indices=found)  # an archive has a checksum

    def collect(self) -> Iterator[np.ndarray]:
        """Wait for all parts, on rank 0, and read them.

        Yields:
            np.ndarray: Neighbors of successive images, shape (n, k), int32.

        Raises:
            UserError: If a part was deleted or damaged.
        """
        for number, (rows, path) in enumerate(zip(self._rows, self._paths)):
            own = [path] if number in self._own[:1] else []
            self.build.wait(path.is_file, own=own)
            found = self._read(path, rows)
            if found is None:
                raise UserError(
                    f'{path} was damaged or deleted while the neighbors of {self.build.out.name} '
                    'were being built; start again'
                )
            yield found

    def _read(self, path: Path, rows: range) -> Optional[np.ndarray]:
        """Read a part; None if it does not exist or is damaged."""
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                found = file['indices']
            expected = len(rows), self.shape[1]
            if found.shape != expected or found.dtype != np.int32:
                raise ValueError(f'expected int32 {expected}, got {found.dtype} {found.shape}')
            if is_wrong(found, np.array(rows), self.shape[0]).any():
                raise ValueError('a neighbor is out of range')
        except Exception as error:  # a damaged archive can raise any exception
            print_log(
                f'searching the neighbors of {path} again: it is damaged '
                f'({type(error).__name__}: {error})',
                logger='current',
                level=logging.WARNING,
            )
            return None
        return found
