"""Map the arrays of an ``*.npz`` into memory, which NumPy does for single ``*.npy`` only."""

from __future__ import annotations

import mmap
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cotap_mm.files.atomic_write import open_regular

_LOCAL = struct.Struct('<4s22xHH')  # signature, lengths of the name and of the extra field
_SIGNATURE = b'PK\x03\x04'


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Map all arrays of a file as ``np.savez`` writes it; their checksums are not compared.

    Args:
        path (Path): The file, uncompressed.

    Returns:
        dict[str, np.ndarray]: Name -> array, read-only.

    Raises:
        ValueError: If it is damaged or compressed; also zipfile.BadZipFile and struct.error.
        OSError: If it cannot be read.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return {
            member.filename.removesuffix('.npy'): _map_member(file, data, member)
            for member in archive.infolist()
        }


def _map_member(file: BinaryIO, data: mmap.mmap, member: zipfile.ZipInfo) -> np.ndarray:
    file.seek(member.header_offset)
    signature, *lengths = _LOCAL.unpack(file.read(_LOCAL.size))
    if signature != _SIGNATURE or member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f'{member.filename} is damaged or compressed')
    file.seek(member.header_offset + _LOCAL.size + sum(lengths))
    if np.lib.format.read_magic(file) != (1, 0):  # type: ignore[no-untyped-call]
        raise ValueError(f'{member.filename} is not an array of NumPy, version 1 of its format')
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
    if len(shape) > 1 or dtype.hasobject:
        raise ValueError(f'{member.filename} must be a list of numbers, got {dtype} {shape}')
    return np.frombuffer(data, dtype, int(np.prod(shape)), file.tell()).reshape(shape)
