"""Feature files of NumPy: ``ids``, an array per feature, and ``about``, which is JSON."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from cotap_mm.files.atomic_write import atomic_write

from .table import Table


def write(path: Path, table: Table) -> None:
    """Write a file; equal content gives equal bytes.

    Args:
        path (Path): The file, ``*.npz``.
        table (Table): Its content.
    """
    with atomic_write(path) as partial, zipfile.ZipFile(partial, 'w') as archive:
        for name, (shape, dtype) in table.shapes.items():
            with archive.open(zipfile.ZipInfo(f'{name}.npy'), 'w', force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(
                    file,
                    dict(
                        descr=np.lib.format.dtype_to_descr(dtype),
                        fortran_order=False,
                        shape=(len(table.ids), *shape),
                    ),
                )
                for block in table.parts.feature(name):
                    file.write(np.ascontiguousarray(block).tobytes())
        for name, text in (('ids', table.ids), ('about', table.about())):
            info = zipfile.ZipInfo(f'{name}.npy')
            info.compress_type = zipfile.ZIP_DEFLATED  # four bytes per character
            with archive.open(info, 'w', force_zip64=True) as file:
                np.lib.format.write_array(file, np.array(text, dtype=np.str_), allow_pickle=False)


def read_about(path: Path) -> tuple[list[str], str]:
    """Read ids and JSON.

    Raises:
        ValueError: If it is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive['ids'].tolist(), str(archive['about'])
    except OSError:
        raise
    except Exception as error:  # a damaged archive can raise any exception
        raise ValueError(f'{path} is not a feature file ({type(error).__name__}: {error})') from (
            error
        )


def read_feature(path: Path, name: str) -> np.ndarray:
    """Read one feature, shape (N, ...)."""
    with np.load(path, allow_pickle=False) as archive:
        return archive[name]
