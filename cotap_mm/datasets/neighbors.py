"""The neighbour file: which images of a data set look alike."""
import json
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np

from cotap_mm.files import whole_file


def save_neighbors(path: 'str | Path', names: Sequence[str], indices: np.ndarray,
                   meta: Optional[Dict] = None) -> None:
    """Write a neighbour file, atomically.

    Args:
        path (str | Path): ``*.npz``.
        names (Sequence[str]): Name of each image, relative to its folder, length N.
        indices (np.ndarray): Nearest first, never the image itself, shape (N, k).
        meta (dict, optional): How it was made; stored as json.
    """
    with whole_file(path) as partial, open(partial, 'wb') as file:
        np.savez_compressed(file, names=np.array(list(names), dtype=np.str_),
                            indices=np.asarray(indices, dtype=np.int32),
                            meta=np.array(json.dumps(meta or {})))


def load_neighbors(path: 'str | Path', names: Sequence[str], num_neighbors: int = 7) -> np.ndarray:
    """Read the neighbours of the images ``names``.

    Understands our files, which hold image names and may be in another order, and
    the authors' ``nns_*.npz``, which hold indices only (key ``nns``): ``names`` must
    then be in the order they were made for.

    Args:
        path (str | Path): The file.
        names (Sequence[str]): The data set's images, length N.
        num_neighbors (int): k, neighbours kept of each image. Defaults to 7.

    Returns:
        np.ndarray: Indices into ``names``, nearest first, shape (N, k), int64; fewer
        than k where the data set has fewer other images that can be read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, was built for other images, or holds too few.
    """
    path = Path(path)
    if num_neighbors < 1:
        raise ValueError(f'num_neighbors must be at least 1, got {num_neighbors}')
    if not path.is_file():
        raise FileNotFoundError(f'neighbour file {path} does not exist; build it with '
                                f'tools/build_neighbors.py, or set neighbors=\'auto\'')
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = dict(json.loads(str(arrays.get('meta', '{}'))))
    # A damaged archive can fail in any way.
    except Exception as error:
        raise ValueError(f'{path} is damaged or no neighbour file ({error}); rebuild it with '
                         'tools/build_neighbors.py') from error
    if 'indices' in arrays and 'names' in arrays:
        indices = _checked(path, arrays['indices'], len(arrays['names']))
        indices = _remapped(path, arrays['names'].tolist(), indices, names)
    elif 'nns' in arrays:
        _check_count(path, len(arrays['nns']), len(names))
        indices = _checked(path, arrays['nns'], len(names))
    else:
        raise ValueError(f"{path} must hold 'names' and 'indices', or 'nns', got "
                         f'{sorted(arrays)}; build it with tools/build_neighbors.py')
    # An image that could not be read when the file was built is nobody's neighbour.
    others = min(meta.get('num_readable', len(names)), len(names)) - 1
    return _nearest(path, indices, min(num_neighbors, others))


def neighbor_meta(path: 'str | Path') -> Dict:
    """How a neighbor file was made, as :func:`save_neighbors` was told; empty if it is not ours.

    Raises:
        OSError, ValueError: If it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(json.loads(str(archive['meta']))) if 'meta' in archive.files else {}
    except OSError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise ValueError(f'{path} is damaged ({error})') from error


def _rebuild(path: Path) -> str:
    return f'rebuild with python tools/build_neighbors.py IMAGES --out {path.name}'


def _check_count(path: Path, built: int, found: int) -> None:
    if built != found:
        raise ValueError(f'{path.name} was built for {built} images, the folder holds {found}; '
                         f'{_rebuild(path)}')


def _checked(path: Path, indices: np.ndarray, count: int) -> np.ndarray:
    """The indices as int64, if they are what a file of ``count`` images must hold."""
    if indices.ndim != 2 or len(indices) != count or indices.dtype.kind not in 'iu':
        raise ValueError(f'{path.name} must hold integers of shape ({count}, k), got '
                         f'{indices.dtype} {indices.shape}; {_rebuild(path)}')
    indices = indices.astype(np.int64)
    if indices.size and not (0 <= indices.min() and indices.max() < count):
        raise ValueError(f'{path.name} points to images {indices.min()} to {indices.max()}, but '
                         f'there are 0 to {count - 1}; {_rebuild(path)}')
    return indices


def _remapped(path: Path, stored: List[str], indices: np.ndarray,
              names: Sequence[str]) -> np.ndarray:
    """The indices for the order of ``names`` instead of ``stored``."""
    _check_count(path, len(stored), len(names))
    if stored == list(names):
        return indices
    place = {name: i for i, name in enumerate(names)}
    gone = [name for name in stored if name not in place]
    if gone or len(set(stored)) != len(stored):
        raise ValueError(f'{path.name} was built for other images: {len(gone)} are not in the '
                         f'folder now, e.g. {(gone or stored)[0]}; {_rebuild(path)}')
    new = np.array([place[name] for name in stored])  # stored index -> ours
    ordered = np.empty_like(indices)
    ordered[new] = new[indices]
    return ordered


def _nearest(path: Path, indices: np.ndarray, wanted: int) -> np.ndarray:
    """The first ``wanted`` of each row, without the image itself.

    The authors' lists may start with the image itself, which is not its neighbour here.
    """
    itself = indices == np.arange(len(indices))[:, None]  # (N, k)
    order = np.argsort(itself, axis=1, kind='stable')  # the image itself goes last
    indices = np.take_along_axis(indices, order, axis=1)
    usable = indices.shape[1] - int(itself.sum(axis=1).max(initial=0))
    if usable < wanted:
        raise ValueError(f'{path.name} holds {usable} neighbours an image, {wanted} are needed; '
                         f'{_rebuild(path)} --num-neighbors {wanted}')
    return indices[:, :wanted]
