"""The neighbors of a neighbor file ``*.npy``, each row read when it is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import printable

from .array_file import ArrayFile, is_wrong
from .damage import OtherImages, check_columns, check_count, rebuild
from .name_hashes import digest_of, hashes_of


class UnreachableRows(OSError):
    """A neighbor file cannot be read at the moment, for instance from a network disk."""


class NeighborRows:
    """Rows of a neighbor file that are read from the disk when they are used.

    Nothing is kept in memory; the pages that the operating system caches are shared by all
    processes of a machine. The file is not memory-mapped, so that a truncated file, or a disk that
    fails, is an error and does not kill the process. Other processes reopen the file, and refuse
    one that was replaced in the meantime.

    Args:
        file (ArrayFile): The file, for images in this order.
        num_neighbors (int): Number of neighbors that are used, at most those of the file.

    Attributes:
        shape (tuple[int, int]): Number of images and used neighbors, (N, k).
    """

    dtype = np.dtype(np.int64)

    def __init__(self, file: ArrayFile, num_neighbors: int) -> None:
        self.path, self.shape = file.path, (len(file), num_neighbors)
        self._file: Optional[ArrayFile] = file
        self._stamp = file.stamp

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        """Read the neighbors of an image.

        Args:
            index (int): Index of the image.

        Returns:
            np.ndarray: Indices, nearest first, shape (k,), int64.

        Raises:
            IndexError: If the index is out of range.
            UserError: If the file was truncated, replaced or damaged.
            UnreachableRows: If the disk fails.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f'index must be from 0 to {len(self) - 1}, got {index}')
        index %= len(self)
        try:
            row = self._open().read(index, index + 1)
        except EOFError as error:
            raise UserError(
                f'{printable(self.path)} was truncated while it was being used; restore it, or '
                f'{rebuild(self.path)}, and start again (training: with --resume)'
            ) from error
        except OSError as error:
            self._file = None  # a handle stays stale after its network disk was gone
            raise UnreachableRows(
                f'{printable(self.path)}: {type(error).__name__}: {error}'
            ) from error
        if is_wrong(row, np.array([index]), len(self))[0]:
            raise UserError(
                f'{printable(self.path)} is damaged: the neighbors of image {index} must be from '
                f'0 to {len(self) - 1} and not the image itself, got {row[0].tolist()[:10]}; '
                f'{rebuild(self.path)}'
            )
        return row[0, : self.shape[1]].astype(np.int64)

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        """Read all rows into memory, shape (N, k), int64; raises a ValueError if damaged."""
        rows = np.empty(self.shape, self.dtype if dtype is None else dtype)
        _fill(rows, self._open())
        return rows

    def is_reachable(self) -> bool:
        """Whether the file exists; False if a network disk is gone."""
        return os.path.exists(self.path)  # not Path.exists, which raises for a stale handle

    def _open(self) -> ArrayFile:
        if self._file is None:
            try:
                file = ArrayFile(self.path)
            except ValueError as error:
                raise UserError(f'{error}') from error
            if file.stamp != self._stamp:
                file.close()
                raise UserError(
                    f'{printable(self.path)} was replaced since it was opened; start again '
                    '(training: with --resume)'
                )
            self._file = file
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__, _file=None)  # other processes reopen the file


def open_rows(path: Path, names: Sequence[str], num_neighbors: int) -> NeighborRows | np.ndarray:
    """Open the neighbors of the images ``names``.

    Args:
        path (Path): The file.
        names (Sequence[str]): Names of the data set's images, length N.
        num_neighbors (int): Number of neighbors of each image, k.

    Returns:
        NeighborRows | np.ndarray: Shape (N, k); an array in memory, int32, if the images are in
        another order than in the file.

    Raises:
        ValueError: If it is damaged, was built for other images, or has too few neighbors.
        OSError: If the disk fails.
    """
    file = ArrayFile(path)
    try:
        if len(file) != len(names):
            check_count(path, len(file), len(names), f' ({_difference(file, names)})')
        # Images that could not be read when the file was built are not neighbors of any image.
        wanted = min(num_neighbors, file.readable - 1)
        check_columns(path, file.shape[1], wanted)
        if digest_of(names) != file.record['names']:
            return _remapped(file, names, wanted)
        file.check_small()
    except BaseException:
        file.close()
        raise
    return NeighborRows(file, wanted)


def _difference(file: ArrayFile, names: Sequence[str]) -> str:
    """Which images a folder and a file do not share; the file has only hashes of its names."""
    stored, hashes = file.hashes(), hashes_of(names)
    new = np.flatnonzero(~np.isin(hashes, stored))
    gone = int((~np.isin(stored, hashes)).sum())
    parts = [f'{gone} of {len(file)} are not in the folder']
    if len(new):
        parts.append(f'{len(new)} are new, e.g. {printable(names[int(new[0])])}')
    return ', '.join(parts)


def _remapped(file: ArrayFile, names: Sequence[str], wanted: int) -> np.ndarray:
    """Convert the rows of a file to the order ``names``."""
    stored, hashes = file.hashes(), hashes_of(names)
    order = np.argsort(hashes, kind='stable')
    place = np.minimum(np.searchsorted(hashes[order], stored), len(order) - 1)
    position = order[place].astype(np.int32)  # stored index -> new index
    is_missing = hashes[position] != stored
    if is_missing.any():
        raise OtherImages(
            f'{file.path.name} was built for other images: {_difference(file, names)}; '
            f'{rebuild(file.path)}'
        )
    if len(np.unique(position)) != len(position):
        raise OtherImages(
            f'{file.path.name} was built for images in another order, and several of them have '
            f'the same name; {rebuild(file.path)}'
        )
    rows = np.empty((len(file), wanted), np.int32)
    _fill(rows, file)
    file.close()
    ordered = np.empty_like(rows)
    ordered[position] = position[rows]
    return ordered


def _fill(rows: np.ndarray, file: ArrayFile) -> None:
    """Read the first columns of a file into an array."""
    start = 0
    for block in file.blocks():
        rows[start : start + len(block)] = block[:, : rows.shape[1]]
        start += len(block)
