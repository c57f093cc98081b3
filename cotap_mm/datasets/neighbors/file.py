"""The neighbour file: which images of a data set look alike."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from cotap_mm.files.atomic_write import atomic_write, printable

_MOST_NEIGHBORS = 1024  # of an image, in a file
_LONGEST_NAME = 256  # characters, or the data set's own longest
_META_BYTES = 1 << 20


def save_neighbors(
    path: str | Path, names: Sequence[str], indices: np.ndarray, meta: Optional[dict] = None
) -> None:
    """Write a neighbour file, atomically.

    Args:
        path (str | Path): ``*.npz``.
        names (Sequence[str]): Name of each image, relative to its folder, length N.
        indices (np.ndarray): Nearest first, never the image itself, shape (N, k).
        meta (dict, optional): How it was made; stored as json.
    """
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        np.savez_compressed(
            file,
            names=np.array(list(names), dtype=np.str_),
            indices=np.asarray(indices, dtype=np.int32),
            meta=np.array(json.dumps(meta or {})),
        )


def load_neighbors(path: str | Path, names: Sequence[str], num_neighbors: int = 7) -> np.ndarray:
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
        raise FileNotFoundError(
            f'neighbour file {path} does not exist; build it with '
            f"tools/build_neighbors.py, or set neighbors='auto'"
        )
    arrays, meta = _read(path, names)
    if 'indices' in arrays and 'names' in arrays:
        indices = _checked(path, arrays['indices'], len(arrays['names']))
        indices = _remapped(path, arrays['names'].tolist(), indices, names)
    elif 'nns' in arrays:
        indices = _checked(path, arrays['nns'], len(names))
    else:
        raise ValueError(
            f"{path} must hold 'names' and 'indices', or 'nns', got "
            f'{sorted(arrays)}; build it with tools/build_neighbors.py'
        )
    # An image that could not be read when the file was built is nobody's neighbour.
    others = meta.get('num_readable', len(names)) - 1
    return _nearest(path, indices, min(num_neighbors, others))


def neighbor_meta(path: str | Path) -> dict:
    """How a neighbor file was made, as :func:`save_neighbors` was told; empty if it is not ours.

    Raises:
        OSError, ValueError: If it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if 'meta.npy' not in archive.namelist():
                return {}
            text = _read_array(Path(path), archive, archive.getinfo('meta.npy'), _META_BYTES, None)
        return dict(json.loads(str(text)))
    except OSError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error})') from error


def is_neighbor_file_of(
    path: str | Path, names: Sequence[str], num_neighbors: int, meta: dict
) -> bool:
    """Whether a file holds so many neighbors of these images, and was made in this way.

    Args:
        path (str | Path): The file.
        names (Sequence[str]): Images.
        num_neighbors (int): k.
        meta (dict): Values that the file's own must have.
    """
    try:
        load_neighbors(path, names, num_neighbors)
        found = _read(Path(path), names)[1]
    except (FileNotFoundError, ValueError):
        return False
    return all(found.get(key) == value for key, value in meta.items())


def _read(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and meta data of a file for these images.

    The file is not trusted: memory is bounded by the number of images and the length of their
    names, whatever its headers claim and however well it is compressed.

    Raises:
        ValueError: If it is damaged, for another number of images, or larger than it can be.
    """
    rows = 8 * _MOST_NEIGHBORS * len(names)
    text = 4 * max(_LONGEST_NAME, max(map(len, names), default=0)) * len(names)
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
    # A damaged archive can fail in any way.
    except Exception as error:
        raise ValueError(
            f'{path} is damaged or not a neighbor file ({type(error).__name__}: '
            f'{error}); rebuild it with tools/build_neighbors.py --overwrite; if a '
            'training has found it by itself, delete it and start again'
        ) from error
    return arrays, meta


def _read_array(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int, count: Optional[int]
) -> np.ndarray:
    """One array of an archive, of so many rows and at most ``most`` bytes."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f'{info.filename} is compressed in a way that NumPy does not use')
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
                f'{info.filename} claims {dtype} {shape}, and holds '
                f'{info.file_size - file.tell()} bytes'
            )
        if count is not None and len(shape):
            _check_count(path, shape[0], count)
        if size > most:
            raise ValueError(
                f'{info.filename} holds {size} bytes, at most {most} are expected for these images'
            )
        content = file.read()  # not more than file_size; checks the checksum
    return np.frombuffer(content, dtype).reshape(shape, order='F' if is_fortran else 'C')


def _rebuild(path: Path) -> str:
    return f'rebuild with python tools/build_neighbors.py IMAGES --out {path.name}'


class OtherImages(ValueError):
    """A neighbor file was built for other images."""


def _check_count(path: Path, built: int, found: int) -> None:
    if built != found:
        raise OtherImages(
            f'{path.name} was built for {built} images, the folder holds {found}; {_rebuild(path)}'
        )


def _checked(path: Path, indices: np.ndarray, count: int) -> np.ndarray:
    """The indices as int64, if they are what a file of ``count`` images must hold."""
    if indices.ndim != 2 or len(indices) != count or indices.dtype.kind not in 'iu':
        raise ValueError(
            f'{path.name} must hold integers of shape ({count}, k), got '
            f'{indices.dtype} {indices.shape}; {_rebuild(path)}'
        )
    indices = indices.astype(np.int64)
    if indices.size and not (indices.min() >= 0 and indices.max() < count):
        raise ValueError(
            f'{path.name} points to images {indices.min()} to {indices.max()}, but '
            f'there are 0 to {count - 1}; {_rebuild(path)}'
        )
    return indices


def _remapped(
    path: Path, stored: list[str], indices: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """The indices for the order of ``names`` instead of ``stored``."""
    _check_count(path, len(stored), len(names))
    if stored == list(names):
        return indices
    place = {name: i for i, name in enumerate(names)}
    gone = [name for name in stored if name not in place]
    if gone or len(set(stored)) != len(stored):
        raise ValueError(
            f'{path.name} was built for other images: {len(gone)} are not in the '
            f'folder now, e.g. {printable((gone or stored)[0])}; {_rebuild(path)}'
        )
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
        raise ValueError(
            f'{path.name} holds {usable} neighbours an image, {wanted} are needed; '
            f'{_rebuild(path)} --num-neighbors {wanted}'
        )
    return indices[:, :wanted]


def is_neighbor_file(path: Path) -> bool:
    """Whether :func:`.save_neighbors` has written a file, for whatever images."""
    with zipfile.ZipFile(path) as archive:
        return {'names.npy', 'indices.npy', 'meta.npy'} <= set(archive.namelist())
