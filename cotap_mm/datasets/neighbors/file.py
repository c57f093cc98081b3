"""Read and write neighbor files: the most similar images of each image of a data set."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional, Union

import numpy as np

from .archive_file import archive_meta, is_archive_of_ours, load_archive, save_archive
from .array_file import ArrayFile, array_meta, starts_as_array, write_rows
from .rows import NeighborRows, open_rows

#: Suffix of neighbor files, and that of earlier versions and of the authors.
SUFFIX, OLD_SUFFIX = '.npy', '.npz'


def save_neighbors(
    path: str | Path,
    names: Sequence[str],
    indices: Union[np.ndarray, Iterable[np.ndarray]],
    meta: Optional[dict] = None,
) -> None:
    """Write a neighbor file atomically.

    Args:
        path (str | Path): The file, ``*.npy``; ``*.npz`` writes the format of version 0.1.
        names (Sequence[str]): Name of each image, relative to its folder, length N.
        indices (np.ndarray | iterable[np.ndarray]): Neighbors of each image, nearest first and
            without the image itself, shape (N, k), or blocks of them.
        meta (dict, optional): How the file was built; stored as json.

    Raises:
        ValueError: If the suffix is another one, or, for ``*.npy``, if the neighbors are not
            integers from 0 to N - 1 or contain the image itself.
    """
    path = Path(path)
    blocks = [indices] if isinstance(indices, np.ndarray) else indices
    if path.suffix == OLD_SUFFIX:
        save_archive(path, names, np.concatenate(list(blocks)), meta or {})
    elif path.suffix == SUFFIX:
        write_rows(path, names, blocks, meta or {})
    else:
        raise ValueError(f'a neighbor file must end in {SUFFIX} or {OLD_SUFFIX}, got {path.name!r}')


def open_neighbors(
    path: str | Path, names: Sequence[str], num_neighbors: int = 7
) -> Union[NeighborRows, np.ndarray]:
    """Open the neighbors of the images ``names``, without reading those of a ``*.npy`` file.

    Args:
        path (str | Path): The file, see :func:`load_neighbors`.
        names (Sequence[str]): Names of the data set's images, length N.
        num_neighbors (int): Number of neighbors of each image, k. Defaults to 7.

    Returns:
        NeighborRows | np.ndarray: Rows that are read when they are used, shape (N, k). An array in
        memory if the file is a ``*.npz``, or if the images are in another order than in the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is damaged, was built for other images, or has too few neighbors.
    """
    path = Path(path)
    if num_neighbors < 1:
        raise ValueError(f'num_neighbors must be at least 1, got {num_neighbors}')
    if not path.is_file():
        raise FileNotFoundError(
            f'neighbor file {path} does not exist; build it with '
            f"cotap neighbors, or set neighbors='auto'"
        )
    if starts_as_array(path) or (path.suffix == SUFFIX and not _is_archive(path)):
        return open_rows(path, names, num_neighbors)
    return load_archive(path, names, num_neighbors)


def load_neighbors(path: str | Path, names: Sequence[str], num_neighbors: int = 7) -> np.ndarray:
    """Read the neighbors of the images ``names`` into memory.

    Supports our files, which identify their images and may be in another order, and the authors'
    ``nns_*.npz``, which contain only indices (key ``nns``): for these, ``names`` must be in the
    order that the file was built for.

    Args:
        path (str | Path): The file.
        names (Sequence[str]): Names of the data set's images, length N.
        num_neighbors (int): Number of neighbors of each image, k. Defaults to 7.

    Returns:
        np.ndarray: Indices into ``names``, nearest first, shape (N, k), int64; fewer than k
        columns if the data set has fewer other readable images.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is damaged, was built for other images, or has too few neighbors.
    """
    return np.asarray(open_neighbors(path, names, num_neighbors), dtype=np.int64)


def neighbor_meta(path: str | Path) -> dict:
    """Read how a neighbor file was built, the ``meta`` of :func:`save_neighbors`.

    Args:
        path (str | Path): The file.

    Returns:
        dict: Empty for a file of the authors.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged.
    """
    return array_meta(Path(path)) if starts_as_array(Path(path)) else archive_meta(Path(path))


def is_neighbor_file_of(
    path: str | Path, names: Sequence[str], num_neighbors: int, meta: dict
) -> bool:
    """Whether a file contains enough neighbors of these images and was built in the given way.

    Args:
        path (str | Path): The file.
        names (Sequence[str]): Names of the images.
        num_neighbors (int): Required number of neighbors of each image.
        meta (dict): Values that the file's ``meta`` must contain.
    """
    try:
        open_neighbors(path, names, num_neighbors)
        stored = neighbor_meta(path)
    except (FileNotFoundError, ValueError):
        return False
    return all(stored.get(key) == value for key, value in meta.items())


def is_neighbor_file(path: Path) -> bool:
    """Whether a file was written by :func:`.save_neighbors`, for any images.

    Raises:
        ValueError: If it is a damaged ``*.npy``.
        zipfile.BadZipFile: If it is neither an array nor an archive.
    """
    if starts_as_array(path):
        ArrayFile(path).close()
        return True
    return is_archive_of_ours(path)


def _is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path)
