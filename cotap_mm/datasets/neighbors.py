"""The neighbour file: which images of a data set look alike."""
import json
import os
import zipfile
from pathlib import Path
from typing import Dict, Optional, Sequence

import numpy as np


def save_neighbors(path: 'str | Path', names: Sequence[str], indices: np.ndarray,
                   meta: Optional[Dict] = None) -> None:
    """Write a neighbour file, atomically.

    Args:
        path (str | Path): ``*.npz``.
        names (Sequence[str]): Name of each image, relative to its folder, length N.
        indices (np.ndarray): Nearest first, never the image itself, shape (N, k).
        meta (dict, optional): How it was made; stored as json.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.part')
    with open(partial, 'wb') as file:
        np.savez_compressed(file, names=np.array(list(names), dtype=np.str_),
                            indices=np.asarray(indices, dtype=np.int32),
                            meta=np.array(json.dumps(meta or {})))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_neighbors(path: 'str | Path', names: Sequence[str], num_neighbors: int = 7) -> np.ndarray:
    """Read the neighbours of the images ``names``.

    Understands our files, which hold image names and may be in another order, and
    the authors' ``nns_*.npz``, which hold indices only (key ``nns``) for the sorted list.

    Args:
        path (str | Path): The file.
        names (Sequence[str]): The data set's images, length N.
        num_neighbors (int): k, neighbours kept of each image. Defaults to 7.

    Returns:
        np.ndarray: Indices into ``names``, nearest first, shape (N, k), int64.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, was built for other images, or holds too few.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'neighbour file {path} does not exist; build it with '
                                f'tools/build_neighbors.py, or set neighbors=\'auto\'')
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} is damaged or no neighbour file ({error}); rebuild it with '
                         'tools/build_neighbors.py') from error
    if 'indices' in arrays and 'names' in arrays:
        indices = _remap(path, arrays['names'].tolist(), arrays['indices'], names)
    elif 'nns' in arrays:
        indices = arrays['nns']
        _check_count(path, len(indices), len(names))
    else:
        raise ValueError(f"{path} must hold 'names' and 'indices', or 'nns', got "
                         f'{sorted(arrays)}; build it with tools/build_neighbors.py')
    return _check(path, indices, len(names), num_neighbors)


def _rebuild(path: Path) -> str:
    return f'rebuild with python tools/build_neighbors.py IMAGES --out {path.name}'


def _check_count(path: Path, built: int, found: int) -> None:
    if built != found:
        raise ValueError(f'{path.name} was built for {built} images, the folder holds {found}; '
                         f'{_rebuild(path)}')


def _remap(path: Path, stored: Sequence[str], indices: np.ndarray,
           names: Sequence[str]) -> np.ndarray:
    _check_count(path, len(stored), len(names))
    if list(stored) == list(names):
        return indices
    place = {name: i for i, name in enumerate(names)}
    gone = [name for name in stored if name not in place]
    if gone:
        raise ValueError(f'{path.name} was built for other images: {len(gone)} are not in the '
                         f'folder now, e.g. {gone[0]}; {_rebuild(path)}')
    new = np.array([place[name] for name in stored])  # stored index -> ours
    valid = (indices >= 0) & (indices < len(stored))
    mapped = np.where(valid, new[np.clip(indices, 0, len(stored) - 1)], -1)
    ordered = np.empty_like(mapped)
    ordered[new] = mapped
    return ordered


def _check(path: Path, indices: np.ndarray, count: int, num_neighbors: int) -> np.ndarray:
    if indices.ndim != 2 or indices.dtype.kind not in 'iu':
        raise ValueError(f'{path.name} must hold integers of shape (N, k), got '
                         f'{indices.dtype} {indices.shape}')
    indices = indices.astype(np.int64)
    if indices.size and not (0 <= indices.min() and indices.max() < count):
        raise ValueError(f'{path.name} points to image {indices.max()} (or below 0), but there '
                         f'are {count}; {_rebuild(path)}')
    # The authors' lists may start with the image itself, which is not its neighbour.
    itself = indices == np.arange(count)[:, None]
    order = np.argsort(itself, axis=1, kind='stable')  # the image itself goes last
    indices = np.take_along_axis(indices, order, axis=1)
    usable = indices.shape[1] - int(itself.sum(axis=1).max(initial=0))
    wanted = min(num_neighbors, count - 1)
    if usable < wanted:
        raise ValueError(f'{path.name} holds {usable} neighbours an image, {wanted} are needed; '
                         f'{_rebuild(path)} --num-neighbors {wanted}')
    return indices[:, :max(wanted, 0)]
