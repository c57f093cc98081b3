"""Feature files in Parquet: a column ``id``, and a column of fixed-size lists per feature."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from cotap_mm.files.atomic_write import atomic_write, printable

from .table import Table

_ABOUT = b'cotap_mm'


def check_installed() -> None:
    """Raise an ImportError if pyarrow is not installed."""
    _pyarrow()


def write(path: Path, table: Table) -> None:
    """Write a file, with one row group per part; names that are not UTF-8 are escaped.

    Args:
        path (Path): The file, ``*.parquet``.
        table (Table): Its content.
    """
    pa, pq = _pyarrow()
    fields = [
        pa.field(name, pa.list_(pa.from_numpy_dtype(dtype), math.prod(shape)))
        for name, (shape, dtype) in table.shapes.items()
    ]
    schema = pa.schema(
        [pa.field('id', pa.string()), *fields],
        metadata={_ABOUT: table.about().encode()},
    )
    ids = [printable(name) for name in table.ids]
    start = 0
    with atomic_write(path) as partial, pq.ParquetWriter(str(partial), schema) as writer:
        for block in table.parts.blocks():
            count = len(next(iter(block.values())))
            columns = [
                pa.FixedSizeListArray.from_arrays(
                    pa.array(block[field.name].reshape(-1)), field.type.list_size
                )
                for field in fields
            ]
            rows = pa.array(ids[start : start + count], pa.string())
            writer.write_table(pa.Table.from_arrays([rows, *columns], schema=schema))
            start += count


def read_about(path: Path) -> tuple[list[str], str]:
    """Read ids and JSON.

    Raises:
        ValueError: If it is not such a file.
    """
    pa, pq = _pyarrow()
    try:
        metadata = pq.read_schema(path).metadata or {}
        if _ABOUT not in metadata:
            raise ValueError('it has no metadata of cotap_mm')
        ids = pq.read_table(path, columns=['id']).column('id').to_pylist()
        return ids, metadata[_ABOUT].decode()
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f'{path} is not a feature file ({error})') from error


def read_feature(path: Path, name: str) -> np.ndarray:
    """Read one feature, shape (N, ...)."""
    _, pq = _pyarrow()
    shape = json.loads(pq.read_schema(path).metadata[_ABOUT])['shapes'][name]
    column = pq.read_table(path, columns=[name]).column(name).combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'feature files *.parquet need the package pyarrow: pip install pyarrow'
        ) from error
    return pyarrow, pyarrow.parquet
