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
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import atomic_write

_MAX_WIDTH = 1 << 16  # channels of a feature
_MAX_RECORD = 1 << 20  # bytes
_CHECKED = 4096  # rows whose checksum is computed at a time


class FeatureFile:
    """Unit-length features of images, float32, and a record of the rows written so far.

    The record next to the file, ``*.json``, identifies the images and the encoder, and contains a
    checksum of the written rows. A file that does not match its record is written again from the
    start. The file is not memory-mapped, so truncation while it is read, or a full disk, is an
    error and does not kill the process.

    Args:
        path (str | Path): The file.
        task (dict): Identifies the content, as plain JSON values.
        count (int): Number of images.

    Attributes:
        done (int): Number of rows written.
        width (int): Channels of a feature; 0 until it is known.
    """

    def __init__(self, path: str | Path, task: dict, count: int) -> None:
        self.path, self.task, self.count = Path(path), task, count
        self.record = self.path.with_name(f'{self.path.name}.json')
        self.done = self.width = self._checksum = 0
        self._reported = ''

    def __len__(self) -> int:
        return self.count

    @property
    def is_complete(self) -> bool:
        """Whether all rows are written."""
        return self.done == self.count

    def load(self) -> bool:
        """Load the state of an existing file; a file that does not match is logged and ignored.

        Returns:
            bool: Whether all rows are written.
        """
        if not self.is_complete:
            self.done = self.width = self._checksum = 0
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
        for key, low, high in (
            ('images', self.count, self.count),
            ('done', 1, self.count),
            ('width', 1, _MAX_WIDTH),
            ('crc32', 0, (1 << 32) - 1),
        ):
            value = record.get(key)
            if type(value) is not int or not low <= value <= high:
                return f'{key} must be an integer from {low} to {high}, got {str(value)[:50]}'
        self.width = record['width']
        size = self.path.stat().st_size
        if size != 4 * self.count * self.width:
            return f'expected {4 * self.count * self.width} bytes, got {size}'
        checksum = 0
        for start in range(0, record['done'], _CHECKED):
            rows = self[start : min(start + _CHECKED, record['done'])]
            checksum = zlib.crc32(rows.numpy().tobytes(), checksum)
        if checksum != record['crc32']:
            self.width = 0
            return 'the checksum of its rows is wrong'
        self.done, self._checksum = record['done'], checksum
        return ''

    def append(self, block: np.ndarray) -> None:
        """Write the next rows.

        Args:
            block (np.ndarray): Features, shape (B, C).

        Raises:
            UserError: If the disk is full.
        """
        data = np.ascontiguousarray(block, dtype=np.float32).tobytes()
        self.width = block.shape[1]
        # Not truncated: on a file system without locks, another process may write the same rows.
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            if os.fstat(handle).st_size != 4 * self.count * self.width:
                os.ftruncate(handle, 4 * self.count * self.width)
            os.lseek(handle, 4 * self.done * self.width, os.SEEK_SET)
            with os.fdopen(handle, 'wb', closefd=False) as file:
                file.write(data)
        except OSError as error:
            raise self._convert(error) from error
        finally:
            os.close(handle)
        self._checksum = zlib.crc32(data, self._checksum)
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
                            crc32=self._checksum,
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
        shape = max(stop - start, 0), self.width
        features = np.empty(shape, np.float32)
        read = 0
        if features.size:
            try:
                with open(self.path, 'rb') as file:
                    file.seek(4 * start * self.width)
                    read = file.readinto(features)  # type: ignore[attr-defined]
            except FileNotFoundError:
                pass
        if read != features.nbytes:
            raise UserError(
                f'{self.path} was truncated or deleted while it was being read; start '
                'again to recompute its features'
            )
        return torch.from_numpy(features)

    def split(self, size: int) -> Iterator[Tensor]:
        """Iterate over all rows, ``size`` at a time, like :meth:`torch.Tensor.split`."""
        return (self[start : start + size] for start in range(0, self.count, size))
