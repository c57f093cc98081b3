"""Store image features in a file that is written in blocks, resumable, and read in slices."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.files.read_at import read_at

_MAX_WIDTH = 1 << 16  # channels of a feature
_MAX_RECORD = 1 << 20  # bytes
_CHECKED = 4096  # rows whose checksum is computed at a time
_DTYPES = dict(float16=torch.float16, bfloat16=torch.bfloat16, float32=torch.float32)
_BYTES = dict(float16=2, bfloat16=2, float32=4)
_OLD_DTYPE = 'float32'  # of records that do not name one


class FeatureFile:
    """Unit-length features of images, and a record of the rows written so far.

    The record next to the file, ``*.json``, identifies the images and the encoder, and contains a
    checksum of the written rows. A file that does not match its record is written again from the
    start. The file is not memory-mapped, so truncation while it is read, or a full disk, is an
    error and does not kill the process. Rows are read as float32; those of a narrower type are
    brought back to unit length, without which the rounding of their lengths would change the order
    of neighbors that are almost equally near.

    Args:
        path (str | Path): The file.
        task (dict): Identifies the content, as plain JSON values.
        count (int): Number of images.
        dtype (str): Type of the values on disk, ``'float16'``, ``'bfloat16'`` or ``'float32'``. A
            file of float32, which earlier versions wrote, is continued as such. Defaults to
            ``'float32'``.

    Attributes:
        dtype (str): Type of the values in this file.
        checksum (int): CRC-32 of the rows written.
        done (int): Number of rows written.
        width (int): Channels of a feature; 0 until it is known.
    """

    def __init__(self, path: str | Path, task: dict, count: int, dtype: str = _OLD_DTYPE) -> None:
        self.path, self.task, self.count = Path(path), task, count
        self.record = self.path.with_name(f'{self.path.name}.json')
        self.dtype = self._wanted = dtype
        self.done = self.width = self.checksum = 0
        self._reported = ''

    def __len__(self) -> int:
        return self.count

    @property
    def is_complete(self) -> bool:
        """Whether all rows are written."""
        return self.done == self.count

    @property
    def num_bytes(self) -> int:
        """Size of the file when it is complete, in bytes; 0 until the width is known."""
        return self.count * self._row_bytes

    def load(self) -> bool:
        """Load the state of an existing file; a file that does not match is logged and ignored.

        Returns:
            bool: Whether all rows are written.
        """
        if not self.is_complete:
            self.done = self.width = self.checksum = 0
            self.dtype = self._wanted
            try:
                with open(self.record, 'rb') as file:
                    record = json.loads(file.read(_MAX_RECORD))
                reason = self._restore(record)
            except FileNotFoundError:
                reason = ''
            except (OSError, ValueError, RecursionError, UserError) as error:
                reason = f'{type(error).__name__}: {error}'
            if reason and reason != self._reported:
                self._reported = reason
                print_log(
                    f'recomputing {self.path}: it does not match its record ({reason})',
                    logger='current',
                )
        return self.is_complete

    def _restore(self, record: object) -> str:
        """Restore the state from a record.

        Returns:
            str: Why that failed; '' if it succeeded, or if the record is for another task.
        """
        if not isinstance(record, dict):
            return f'a record must be a dictionary, got {type(record).__name__}'
        if any(record.get(key) != value for key, value in self.task.items()):
            return ''
        dtype = record.get('dtype', _OLD_DTYPE)
        if dtype not in (self._wanted, _OLD_DTYPE):
            return ''
        for key, low, high in (
            ('images', self.count, self.count),
            ('done', 1, self.count),
            ('width', 1, _MAX_WIDTH),
            ('crc32', 0, (1 << 32) - 1),
        ):
            value = record.get(key)
            if type(value) is not int or not low <= value <= high:
                return f'{key} must be an integer from {low} to {high}, got {str(value)[:50]}'
        self.width, self.dtype = record['width'], dtype
        size = self.path.stat().st_size
        if size != self.count * self._row_bytes:
            return f'expected {self.count * self._row_bytes} bytes, got {size}'
        checksum = 0
        for start in range(0, record['done'], _CHECKED):
            rows = self._read(start, min(start + _CHECKED, record['done']))
            checksum = zlib.crc32(rows, checksum)
        if checksum != record['crc32']:
            self.width, self.dtype = 0, self._wanted
            return 'the checksum of its rows is wrong'
        self.done, self.checksum = record['done'], checksum
        return ''

    def append(self, block: np.ndarray) -> None:
        """Write the next rows.

        Args:
            block (np.ndarray): Features, shape (B, C).

        Raises:
            UserError: If the disk is full.
        """
        rows = torch.from_numpy(np.ascontiguousarray(block, dtype=np.float32))
        data = rows.to(_DTYPES[self.dtype]).view(torch.uint8).numpy().tobytes()
        self.width = block.shape[1]
        # Not truncated: on a file system without locks, another process may write the same rows.
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            if os.fstat(handle).st_size != self.count * self._row_bytes:
                os.ftruncate(handle, self.count * self._row_bytes)
            os.lseek(handle, self.done * self._row_bytes, os.SEEK_SET)
            with os.fdopen(handle, 'wb', closefd=False) as file:
                file.write(data)
        except OSError as error:
            raise self._convert(error) from error
        finally:
            os.close(handle)
        self.checksum = zlib.crc32(data, self.checksum)
        self.done += len(block)

    def save(self) -> None:
        """Flush the rows to the disk and update the record.

        Raises:
            UserError: If the disk is full.
        """
        try:
            with open(self.path, 'rb+') as file:
                os.fsync(file.fileno())
            with atomic_write(self.record) as partial:
                partial.write_text(
                    json.dumps(
                        dict(
                            self.task,
                            images=self.count,
                            done=self.done,
                            width=self.width,
                            dtype=self.dtype,
                            crc32=self.checksum,
                        )
                    ),
                    encoding='utf-8',
                )
        except OSError as error:
            raise self._convert(error) from error

    def _convert(self, error: OSError) -> Exception:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return error
        return UserError(
            f'cannot write {self.path}: {error.strerror}. Free disk space and start again; '
            'the saved features are kept'
        )

    def __getitem__(self, rows: slice) -> Tensor:
        """Read rows into memory.

        Args:
            rows (slice): The rows; the step is ignored.

        Returns:
            Tensor: Features, shape (rows, C), float32.

        Raises:
            UserError: If the file was truncated or deleted.
        """
        start, stop, _ = rows.indices(self.count)
        return self._decode(self._read(start, max(stop, start)))

    def take(self, indices: np.ndarray) -> Tensor:
        """Read single rows into memory.

        Args:
            indices (np.ndarray): Indices of the rows, shape (n,).

        Returns:
            Tensor: Features, shape (n, C), float32.

        Raises:
            UserError: If the file was truncated or deleted.
        """
        size, parts = self._row_bytes, []
        try:
            with open(self.path, 'rb') as file:
                parts = [read_at(file, size, size * index) for index in indices.tolist()]
        except FileNotFoundError:
            pass
        data = bytearray().join(parts)
        if len(data) != size * len(indices):
            raise self._truncated()
        return self._decode(data)

    @property
    def _row_bytes(self) -> int:
        return self.width * _BYTES[self.dtype]

    def _read(self, start: int, stop: int) -> bytearray:
        data, read = bytearray((stop - start) * self._row_bytes), 0
        if data:
            try:
                with open(self.path, 'rb') as file:
                    file.seek(start * self._row_bytes)
                    read = file.readinto(data)  # type: ignore[attr-defined]
            except FileNotFoundError:
                pass
        if read != len(data):
            raise self._truncated()
        return data

    def _decode(self, data: bytearray) -> Tensor:
        if not data:
            return torch.empty(0, self.width)
        rows = torch.frombuffer(data, dtype=_DTYPES[self.dtype]).view(-1, self.width)
        if self.dtype == _OLD_DTYPE:
            return rows
        return F.normalize(rows.float(), dim=1)  # a zero row stays zero

    def _truncated(self) -> UserError:
        return UserError(
            f'{self.path} was truncated or deleted while it was being read; start '
            'again to recompute its features'
        )

    def split(self, size: int) -> Iterator[Tensor]:
        """Iterate over all rows, ``size`` at a time, like :meth:`torch.Tensor.split`."""
        return (self[start : start + size] for start in range(0, self.count, size))
