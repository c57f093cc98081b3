"""Feature files as a zarr group: an array per feature, ``ids``, and attributes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .table import Table

_ABOUT = 'cotap_mm'
_CHUNK_BYTES = 1 << 22


def check_installed() -> None:
    """Raise an ImportError if zarr is not installed."""
    _zarr()


def write(path: Path, table: Table) -> None:
    """Write a group in version 2 of the format, which all readers know.

    It is written in the folder of the parts, and moved when it is complete.

    Args:
        path (Path): The folder, ``*.zarr``; replaced if it exists.
        table (Table): Its content.
    """
    draft = table.parts.folder / 'draft.zarr'
    if draft.exists():
        shutil.rmtree(draft)
    group = _open(draft, 'w')
    ids = np.array(table.ids, dtype=np.str_)
    _create(group, 'ids', ids.shape, ids.dtype)[:] = ids
    for name, (shape, dtype) in table.shapes.items():
        array = _create(group, name, (len(ids), *shape), dtype)
        start = 0
        for block in table.parts.feature(name):
            array[start : start + len(block)] = block
            start += len(block)
    group.attrs[_ABOUT] = table.about()
    if path.exists():
        path.rename(table.parts.folder / 'replaced.zarr')
    os.replace(draft, path)


def read_about(path: Path) -> tuple[list[str], str]:
    """Read ids and JSON.

    Raises:
        ValueError: If it is not such a file.
    """
    try:
        group = _open(path, 'r')
        about = str(group.attrs[_ABOUT])
        return group['ids'][:].tolist(), about
    except ImportError:
        raise
    except Exception as error:  # of any type, depending on the version of zarr
        raise ValueError(f'{path} is not a feature file ({type(error).__name__}: {error})') from (
            error
        )


def read_feature(path: Path, name: str) -> np.ndarray:
    """Read one feature, shape (N, ...)."""
    return np.asarray(_open(path, 'r')[name][:])


def _open(path: Path, mode: str) -> Any:
    zarr = _zarr()
    if mode == 'r':
        return zarr.open_group(str(path), mode='r')
    version = 'zarr_format' if int(zarr.__version__.split('.')[0]) >= 3 else 'zarr_version'
    return zarr.open_group(str(path), mode=mode, **{version: 2})


def _create(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    width = max(1, dtype.itemsize * int(np.prod(shape[1:])))
    chunks = (max(1, min(shape[0], _CHUNK_BYTES // width)), *shape[1:])
    create = getattr(group, 'create_array', None) or group.create_dataset
    return create(name, shape=shape, chunks=chunks, dtype=dtype)


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ImportError('feature files *.zarr need the package zarr: pip install zarr') from error
    return zarr
