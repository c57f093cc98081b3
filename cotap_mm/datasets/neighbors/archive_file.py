"""Neighbor files of earlier versions and of the authors: compressed archives, ``*.npz``."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from cotap_mm.files.atomic_write import atomic_write, printable

from .damage import (
    OtherImages,
    check_columns,
    check_count,
    check_range,
    check_readable,
    check_shape,
    damaged,
    rebuild,
)

_MAX_NEIGHBORS = 1024  # per image
_MAX_NAME = 256  # characters, or the longest name of the data set
_META_BYTES = 1 << 20


def save_archive(path: Path, names: Sequence[str], indices: np.ndarray, meta: dict) -> None:
    """Write an archive atomically; see :func:`.save_neighbors`."""
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        np.savez_compressed(
            file,
            names=np.array(list(names), dtype=np.str_),
            indices=np.asarray(indices, dtype=np.int32),
            meta=np.array(json.dumps(meta)),
        )


def load_archive(path: Path, names: Sequence[str], num_neighbors: int) -> np.ndarray:
    """Read the neighbors of the images ``names`` from an archive.

    The authors' archives have only indices (key ``nns``), in the order of the images.

    Args:
        path (Path): The file.
        names (Sequence[str]): Names of the data set's images, length N.
        num_neighbors (int): Number of neighbors of each image, k.

    Returns:
        np.ndarray: Indices into ``names``, shape (N, k), int64; fewer than k columns if the data
        set has fewer other readable images.

    Raises:
        ValueError: If it is damaged, was built for other images, or has too few neighbors.
    """
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


def archive_meta(path: Path) -> dict:
    """Read how an archive was built; empty for a file of the authors.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if 'meta.npy' not in archive.namelist():
                return {}
            text = _read_array(path, archive, archive.getinfo('meta.npy'), _META_BYTES, None)
        return dict(json.loads(str(text)))
    except OSError:
        raise
    except Exception as error:  # a damaged archive can raise any exception
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error})') from error


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
        check_readable(meta.get('num_readable', len(names)), len(names))
        if 'names' in arrays and (arrays['names'].dtype.kind != 'U' or arrays['names'].ndim != 1):
            raise ValueError(
                f'names must be text of shape (N,), got {arrays["names"].dtype} '
                f'{arrays["names"].shape}'
            )
    except OtherImages:
        raise
    # A damaged archive can raise any exception.
    except Exception as error:
        raise damaged(path, f'{type(error).__name__}: {error}') from error
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
            check_count(path, shape[0], count)
        if size > most:
            raise ValueError(
                f'{info.filename} has {size} bytes, at most {most} are expected for these images'
            )
        content = file.read()  # at most file_size bytes; verifies the checksum
    return np.frombuffer(content, dtype).reshape(shape, order='F' if is_fortran else 'C')


def _checked(path: Path, indices: np.ndarray, count: int) -> np.ndarray:
    """Validate the indices of a file for ``count`` images and convert them to int64."""
    check_shape(path, indices, count)
    indices = indices.astype(np.int64)
    check_range(path, indices, count)
    return indices


def _remapped(
    path: Path, stored: list[str], indices: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """Convert the indices from the order ``stored`` to the order ``names``."""
    check_count(path, len(stored), len(names))
    if stored == list(names):
        return indices
    position = {name: i for i, name in enumerate(names)}
    missing = [name for name in stored if name not in position]
    if missing or len(set(stored)) != len(stored):
        raise ValueError(
            f'{path.name} was built for other images: {len(missing)} are not in the '
            f'folder now, e.g. {printable((missing or stored)[0])}; {rebuild(path)}'
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
    check_columns(path, usable, wanted)
    return indices[:, :wanted]


def is_archive_of_ours(path: Path) -> bool:
    """Whether an archive was written by :func:`.save_archive`, for any images.

    Raises:
        zipfile.BadZipFile: If it is not an archive.
    """
    with zipfile.ZipFile(path) as archive:
        return {'names.npy', 'indices.npy', 'meta.npy'} <= set(archive.namelist())
