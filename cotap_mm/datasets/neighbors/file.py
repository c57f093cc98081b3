"""Read and write neighbor files: the most similar images of each image of a data set."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from cotap_mm.files.atomic_write import atomic_write, printable

_MAX_NEIGHBORS = 1024  # per image
_MAX_NAME = 256  # characters, or the longest name of the data set
_META_BYTES = 1 << 20


def save_neighbors(
    path: str | Path, names: Sequence[str], indices: np.ndarray, meta: Optional[dict] = None
) -> None:
    """Write a neighbor file atomically.

    Args:
        path (str | Path): The file, ``*.npz``.
        names (Sequence[str]): Name of each image, relative to its folder, length N.
        indices (np.ndarray): Neighbors of each image, nearest first and without the image itself,
            shape (N, k).
        meta (dict, optional): How the file was built; stored as json.
    """
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        np.savez_compressed(
            file,
            names=np.array(list(names), dtype=np.str_),
            indices=np.asarray(indices, dtype=np.int32),
            meta=np.array(json.dumps(meta or {})),
        )


def load_neighbors(path: str | Path, names: Sequence[str], num_neighbors: int = 7) -> np.ndarray:
    """Read the neighbors of the images ``names``.

    Supports our files, which contain image names and may be in another order, and the authors'
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
    path = Path(path)
    if num_neighbors < 1:
        raise ValueError(f'num_neighbors must be at least 1, got {num_neighbors}')
    if not path.is_file():
        raise FileNotFoundError(
            f'neighbor file {path} does not exist; build it with '
            f"cotap neighbors, or set neighbors='auto'"
        )
    arrays, meta = _read(path, names)
    if 'indices' in arrays and 'names' in arrays:
        indices = _checked(path, arrays['indices'], len(arrays['names']))
        indices = _remapped(path, arrays['names'].tolist(), indices, names)
    elif 'nns' in arrays:
        indices = _checked(path, arrays['nns'], len(names))
    else:
        raise ValueError(
            f"{path} must contain 'names' and 'indices', or 'nns', got "
            f'{sorted(arrays)}; build it with cotap neighbors'
        )
    # Images that could not be read when the file was built are not neighbors of any image.
    others = meta.get('num_readable', len(names)) - 1
    return _nearest(path, indices, min(num_neighbors, others))


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
    try:
        with zipfile.ZipFile(path) as archive:
            if 'meta.npy' not in archive.namelist():
                return {}
            text = _read_array(Path(path), archive, archive.getinfo('meta.npy'), _META_BYTES, None)
        return dict(json.loads(str(text)))
    except OSError:
        raise
    except Exception as error:  # a damaged archive can raise any exception
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error})') from error


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
        load_neighbors(path, names, num_neighbors)
        stored = _read(Path(path), names)[1]
    except (FileNotFoundError, ValueError):
        return False
    return all(stored.get(key) == value for key, value in meta.items())


def _read(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict]:
    """Read arrays and meta data of a file for these images.

    The file is not trusted: memory is bounded by the number of images and the length of their
    names, regardless of the sizes in its headers and of its compression.

    Raises:
        ValueError: If the file is damaged, is for another number of images, or is too large.
    """
    rows = 8 * _MAX_NEIGHBORS * len(names)
    text = 4 * max(_MAX_NAME, max(map(len, names), default=0)) * len(names)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            stored = {info.filename: info for info in archive.infolist()}
            for name, most in (
                ('names', text),
                ('indices', rows),
                ('nns', rows),
                ('meta', _META_BYTES),
            ):
                if f'{name}.npy' in stored:
                    count = len(names) if name in ('names', 'nns') else None
                    arrays[name] = _read_array(path, archive, stored[f'{name}.npy'], most, count)
        meta = dict(json.loads(str(arrays.pop('meta', '{}'))))
        readable = meta.get('num_readable', len(names))
        if type(readable) is not int or not 2 <= readable <= len(names):
            raise ValueError(
                f'num_readable must be an integer from 2 to {len(names)}, got {str(readable)[:50]}'
            )
        if 'names' in arrays and (arrays['names'].dtype.kind != 'U' or arrays['names'].ndim != 1):
            raise ValueError(
                f'names must be text of shape (N,), got {arrays["names"].dtype} '
                f'{arrays["names"].shape}'
            )
    except OtherImages:
        raise
    # A damaged archive can raise any exception.
    except Exception as error:
        raise ValueError(
            f'{path} is damaged or not a neighbor file ({type(error).__name__}: '
            f"{error}); rebuild it with cotap neighbors --overwrite; if neighbors='auto' "
            'built it, delete it and start again'
        ) from error
    return arrays, meta


def _read_array(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int, count: Optional[int]
) -> np.ndarray:
    """Read one array of an archive, with ``count`` rows (None: any) and at most ``most`` bytes."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f'{info.filename} uses a compression that NumPy does not use')
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(
                f'{info.filename} has version {version} of the npy format, expected 1 or 2'
            )
        shape, is_fortran, dtype = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size != info.file_size - file.tell():
            raise ValueError(
                f'{info.filename} claims to be {dtype} {shape}, but has '
                f'{info.file_size - file.tell()} bytes'
            )
        if count is not None and len(shape):
            _check_count(path, shape[0], count)
        if size > most:
            raise ValueError(
                f'{info.filename} has {size} bytes, at most {most} are expected for these images'
            )
        content = file.read()  # at most file_size bytes; verifies the checksum
    return np.frombuffer(content, dtype).reshape(shape, order='F' if is_fortran else 'C')


def _rebuild(path: Path) -> str:
    return f'rebuild with cotap neighbors --images IMAGES --out {path.name}'


class OtherImages(ValueError):
    """A neighbor file was built for other images."""


def _check_count(path: Path, built: int, count: int) -> None:
    if built != count:
        raise OtherImages(
            f'{path.name} was built for {built} images, but the folder has {count}; '
            f'{_rebuild(path)}'
        )


def _checked(path: Path, indices: np.ndarray, count: int) -> np.ndarray:
    """Validate the indices of a file for ``count`` images and convert them to int64."""
    if indices.ndim != 2 or len(indices) != count or indices.dtype.kind not in 'iu':
        raise ValueError(
            f'{path.name} must contain integers of shape ({count}, k), got '
            f'{indices.dtype} {indices.shape}; {_rebuild(path)}'
        )
    indices = indices.astype(np.int64)
    if indices.size and not (indices.min() >= 0 and indices.max() < count):
        raise ValueError(
            f'{path.name} must contain indices from 0 to {count - 1}, got {indices.min()} to '
            f'{indices.max()}; {_rebuild(path)}'
        )
    return indices


def _remapped(
    path: Path, stored: list[str], indices: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """Convert the indices from the order ``stored`` to the order ``names``."""
    _check_count(path, len(stored), len(names))
    if stored == list(names):
        return indices
    position = {name: i for i, name in enumerate(names)}
    missing = [name for name in stored if name not in position]
    if missing or len(set(stored)) != len(stored):
        raise ValueError(
            f'{path.name} was built for other images: {len(missing)} are not in the '
            f'folder now, e.g. {printable((missing or stored)[0])}; {_rebuild(path)}'
        )
    new = np.array([position[name] for name in stored])  # stored index -> new index
    ordered = np.empty_like(indices)
    ordered[new] = new[indices]
    return ordered


def _nearest(path: Path, indices: np.ndarray, wanted: int) -> np.ndarray:
    """The first ``wanted`` neighbors of each row, without the image itself.

    The authors' lists may start with the image itself, which we do not count as a neighbor.
    """
    itself = indices == np.arange(len(indices))[:, None]  # (N, k)
    order = np.argsort(itself, axis=1, kind='stable')  # moves the image itself to the end
    indices = np.take_along_axis(indices, order, axis=1)
    usable = indices.shape[1] - int(itself.sum(axis=1).max(initial=0))
    if usable < wanted:
        raise ValueError(
            f'{path.name} has {usable} neighbors per image, {wanted} are needed; '
            f'{_rebuild(path)} --num-neighbors {wanted}'
        )
    return indices[:, :wanted]


def is_neighbor_file(path: Path) -> bool:
    """Whether a file was written by :func:`.save_neighbors`, for any images.

    Raises:
        zipfile.BadZipFile: If it is not an archive.
    """
    with zipfile.ZipFile(path) as archive:
        return {'names.npy', 'indices.npy', 'meta.npy'} <= set(archive.namelist())
