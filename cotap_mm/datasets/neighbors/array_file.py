r"""Neighbor files ``*.npy``: rows that are read one at a time, followed by a record of the images.

The file starts as NumPy writes an array, so that ``np.load`` reads the rows and ignores the rest::

    header of NumPy, version 1      '<i4', C order, shape (N, k)
    N x k int32                     neighbors, nearest first
    N uint64                        hashes of the names (:mod:`.name_hashes`)
    JSON                            digest of the names, checksums, how the file was built
    4 + 4 + 8 bytes                 size and CRC-32 of the JSON, ``COTAPNN1``

One file is replaced by one rename, so that no crash leaves rows and a record that do not belong
together.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Optional

import numpy as np

from cotap_mm.files.atomic_write import atomic_write, open_regular
from cotap_mm.files.read_at import read_exactly

from .damage import check_readable, damaged
from .name_hashes import digest_of, hashes_of

MAGIC = b'\x93NUMPY'
MAX_NEIGHBORS = 1024  # per image
_END = struct.Struct('<II8s')
_END_MAGIC = b'COTAPNN1'
_RECORD = dict(names=str, rows_crc32=int, names_crc32=int, meta=dict)
_MAX_RECORD = 1 << 20  # bytes
_MAX_HEADER = 1 << 12  # bytes
_AT_ONCE = 1 << 22  # bytes
# Files up to this size are checked as a whole when they are opened, which takes some 20 ms.
_CHECK_WHOLE = 1 << 26  # bytes


def write_rows(
    path: str | Path, names: Sequence[str], blocks: Iterable[np.ndarray], meta: dict
) -> None:
    """Write a neighbor file atomically.

    Args:
        path (str | Path): The file.
        names (Sequence[str]): Names of the images, length N.
        blocks (iterable[np.ndarray]): Neighbors of successive images, shape (n, k).
        meta (dict): How the file was built; stored as JSON.

    Raises:
        ValueError: If rows are missing, are not integers from 0 to N - 1, or contain the image
            itself.
    """
    path, count = Path(path), len(names)
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        width, done, checksum = 0, 0, 0
        for block in blocks:
            if not done:
                width = block.shape[1] if block.ndim == 2 else 0
                _write_header(file, (count, width))
            _check_block(path, block, range(done, count), (count, width))
            data = np.ascontiguousarray(block, '<i4').tobytes()
            file.write(data)
            checksum, done = zlib.crc32(data, checksum), done + len(block)
        if done != count or not done:
            raise ValueError(f'{path.name} needs neighbors of {count} images, got {done}')
        hashes = hashes_of(names).tobytes()
        file.write(hashes)
        record = dict(
            version=1,
            names=digest_of(names),
            rows_crc32=checksum,
            names_crc32=zlib.crc32(hashes),
            meta=meta,
        )
        text = json.dumps(record).encode()
        file.write(text + _END.pack(len(text), zlib.crc32(text), _END_MAGIC))


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
        file, dict(descr='<i4', fortran_order=False, shape=shape)
    )


def _check_block(path: Path, block: np.ndarray, rows: range, shape: tuple[int, int]) -> None:
    count, width = shape
    if block.dtype.kind not in 'iu' or block.shape != (len(block), width) or not width:
        raise ValueError(
            f'neighbors must be integers of shape ({count}, k), k >= 1, got {block.dtype} '
            f'{block.shape}'
        )
    if width > MAX_NEIGHBORS:
        raise ValueError(f'{path.name} can have {MAX_NEIGHBORS} neighbors per image, got {width}')
    if len(block) > len(rows):
        raise ValueError(f'{path.name} needs neighbors of {count} images, got more')
    wrong = is_wrong(block, np.arange(rows.start, rows.start + len(block)), count)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f'neighbors must be from 0 to {count - 1} and not the image itself, got '
            f'{block[row].tolist()} for image {rows.start + row}'
        )


def is_wrong(rows: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    """Which rows contain an index out of range, or their own.

    Args:
        rows (np.ndarray): Neighbors, shape (n, k).
        own (np.ndarray): Index of each row, shape (n,).
        count (int): Number of images.

    Returns:
        np.ndarray: Shape (n,), bool.
    """
    return ((rows < 0) | (rows >= count) | (rows == own[:, None])).any(axis=1)


class ArrayFile:
    """An open neighbor file whose header, size and record are checked.

    Args:
        path (str | Path): The file.

    Attributes:
        shape (tuple[int, int]): Number of images and neighbors per image, (N, k).
        record (dict): The record.
        stamp (tuple[int, ...]): Inode, size and modification time.

    Raises:
        ValueError: If it is damaged, truncated, or not a neighbor file.
        OSError: If it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = open_regular(path)
        try:
            status = os.fstat(self._file.fileno())
            self.stamp = status.st_ino, status.st_size, status.st_mtime_ns
            self.shape, self._start = self._header()
            self.record = self._record(status.st_size)
        except (ValueError, EOFError, RecursionError) as error:
            self._file.close()
            raise damaged(self.path, error) from error
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def readable(self) -> int:
        """Number of images that could be read when the file was built."""
        return int(self.record['meta'].get('num_readable', len(self)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows, which are not checked.

        Args:
            start (int): First row.
            stop (int): Row after the last one.

        Returns:
            np.ndarray: Shape (stop - start, k), int32.

        Raises:
            EOFError: If the file was truncated.
            OSError: If the disk fails.
        """
        size = 4 * self.shape[1]
        data = read_exactly(self._file, size * (stop - start), self._start + size * start)
        return np.frombuffer(data, '<i4').reshape(-1, self.shape[1])

    def blocks(self) -> Iterator[np.ndarray]:
        """Read all rows in blocks.

        Yields:
            np.ndarray: Shape (n, k), int32.

        Raises:
            ValueError: If rows are damaged; after the last block, if the checksum is wrong.
            OSError: If the disk fails.
        """
        step, checksum = max(_AT_ONCE // (4 * self.shape[1]), 1), 0
        try:
            for start in range(0, len(self), step):
                rows = self.read(start, min(start + step, len(self)))
                checksum = zlib.crc32(rows, checksum)
                if is_wrong(rows, np.arange(start, start + len(rows)), len(self)).any():
                    raise ValueError('a neighbor is out of range or the image itself')
                yield rows
            if checksum != self.record['rows_crc32']:
                raise ValueError('the checksum of its rows is wrong')
        except (ValueError, EOFError) as error:
            raise damaged(self.path, error) from error

    def hashes(self) -> np.ndarray:
        """Read the hashes of the names.

        Returns:
            np.ndarray: Shape (N,), uint64.

        Raises:
            ValueError: If they are damaged.
            OSError: If the disk fails.
        """
        offset = self._start + 4 * self.shape[0] * self.shape[1]
        try:
            data = read_exactly(self._file, 8 * len(self), offset)
            if zlib.crc32(data) != self.record['names_crc32']:
                raise ValueError('the checksum of the names is wrong')
        except (ValueError, EOFError) as error:
            raise damaged(self.path, error) from error
        return np.frombuffer(data, '<u8')

    def check_small(self) -> None:
        """Check all rows of a file of up to 64 MB; rows of a larger one are checked on use.

        Raises:
            ValueError: If rows are damaged.
        """
        if self.stamp[1] <= _CHECK_WHOLE:
            for _ in self.blocks():
                pass

    def _header(self) -> tuple[tuple[int, int], int]:
        start = read_exactly(self._file, len(MAGIC) + 4, 0)
        if start[: len(MAGIC)] != MAGIC or start[len(MAGIC) : len(MAGIC) + 2] != b'\1\0':
            raise ValueError('it does not start as an array of NumPy, version 1 of its format')
        size = len(start) + int.from_bytes(start[-2:], 'little')
        if size > _MAX_HEADER:
            raise ValueError(f'its header has {size} bytes, more than {_MAX_HEADER}')
        self._file.seek(len(MAGIC) + 2)
        try:
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(  # type: ignore[no-untyped-call]
                self._file
            )
        except Exception as error:  # a damaged header can raise any exception
            raise ValueError(f'its header is damaged: {type(error).__name__}: {error}') from error
        if dtype != np.dtype('<i4') or is_fortran or len(shape) != 2:
            order = 'Fortran' if is_fortran else 'C'
            raise ValueError(
                f'rows must be little-endian int32 in C order, of shape (N, k), got {dtype.str} in '
                f'{order} order, {shape}'
            )
        if not (shape[0] >= 1 and 1 <= shape[1] <= MAX_NEIGHBORS):
            raise ValueError(f'the shape must be (N, k), k from 1 to {MAX_NEIGHBORS}, got {shape}')
        return shape, size

    def _record(self, size: int) -> dict[str, Any]:
        rows = self._start + 4 * self.shape[0] * self.shape[1]
        if size < rows:
            raise ValueError(f'it has {size} bytes, its rows need {rows}; it is truncated')
        if size == rows:
            raise ValueError('it is an array without the record that cotap neighbors adds')
        end = read_exactly(self._file, _END.size, size - _END.size)
        length, checksum, magic = _END.unpack(end)
        expected = rows + 8 * self.shape[0] + length + _END.size
        if magic != _END_MAGIC or length > _MAX_RECORD or size != expected:
            raise ValueError('its end is not the record of its images; it is truncated or damaged')
        text = read_exactly(self._file, length, size - _END.size - length)
        if zlib.crc32(text) != checksum:
            raise ValueError('the checksum of its record is wrong')
        record = json.loads(text)
        version = record.get('version') if isinstance(record, dict) else None
        if version != 1:
            raise ValueError(f'it has version {version} of the format, expected 1')
        for key, kind in _RECORD.items():
            if type(record.get(key)) is not kind:
                raise ValueError(f'{key} in its record must be of type {kind.__name__}')
        check_readable(record['meta'].get('num_readable', self.shape[0]), self.shape[0])
        return record


def array_meta(path: Path) -> dict:
    """Read how a file was built.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged.
    """
    file = ArrayFile(path)
    file.close()
    return dict(file.record['meta'])


def starts_as_array(path: Path) -> Optional[bool]:
    """Whether a file starts as an array of NumPy; None if it is empty."""
    with open_regular(path) as file:
        start = file.read(len(MAGIC))
    return start == MAGIC if start else None
