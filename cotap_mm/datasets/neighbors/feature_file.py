"""Features of images on disk: written in blocks, resumed, read in slices."""

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

_WIDEST = 1 << 16  # channels of a feature
_LONGEST_RECORD = 1 << 20  # bytes
_CHECKED = 4096  # rows that are read at a time to check them


class FeatureFile:
    """Unit-length features of some images, float32, and a record of how far they are written.

    The record beside the file, ``*.json``, says for which images and encoder it is, and holds
    a checksum of the rows that are done. A file that does not fit its record is written again
    from the start. Nothing is memory-mapped, so a file that is cut while it is read, or a full
    disk, is an error and does not kill the process.

    Args:
        path (str | Path): The file.
        task (dict): What its content follows from, as plain JSON values.
        count (int): Number of images.

    Attributes:
        done (int): Rows that are written.
        width (int): Channels of a feature; 0 as long as it is not known.
    """

    def __init__(self, path: str | Path, task: dict, count: int) -> None:
        self.path, self.task, self.count = Path(path), task, count
        self.record = self.path.with_name(f'{self.path.name}.json')
        self.done = self.width = self._checksum = 0
        self._said = ''

    def __len__(self) -> int:
        return self.count

    @property
    def is_complete(self) -> bool:
        """Whether all rows are written."""
        return self.done == self.count

    def load(self) -> bool:
        """Take over what is written already; whether that is all.

        What does not fit is ignored, with a line in the log.
        """
        if not self.is_complete:
            self.done = self.width = self._checksum = 0
            try:
                with open(self.record, 'rb') as file:
                    record = json.loads(file.read(_LONGEST_RECORD))
                reason = self._take_over(record)
            except FileNotFoundError:
                reason = ''
            except (OSError, ValueError, RecursionError, UserError) as error:
                reason = f'{type(error).__name__}: {error}'
            if reason and reason != self._said:
                self._said = reason
                print_log(
                    f'{self.path} is computed again: its record does not fit ({reason})',
                    logger='current',
                )
        return self.is_complete

    def _take_over(self, record: object) -> str:
        """Why a record cannot be used; '' if it can, or if it is that of another task."""
        if not isinstance(record, dict):
            return f'a record must be a dictionary, got {type(record).__name__}'
        if any(record.get(key) != value for key, value in self.task.items()):
            return ''
        for key, low, high in (
            ('images', self.count, self.count),
            ('done', 1, self.count),
            ('width', 1, _WIDEST),
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
            return 'the checksum of its rows differs'
        self.done, self._checksum = record['done'], checksum
        return ''

    def append(self, block: np.ndarray) -> None:
        """Write the next rows.

        Args:
            block (np.ndarray): Shape (B, C).

        Raises:
            UserError: If the disk is full.
        """
        data = np.ascontiguousarray(block, dtype=np.float32).tobytes()
        self.width = block.shape[1]
        # Not truncated: where a file system has no locks, another process may write the same.
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            if os.fstat(handle).st_size != 4 * self.count * self.width:
                os.ftruncate(handle, 4 * self.count * self.width)
            os.lseek(handle, 4 * self.done * self.width, os.SEEK_SET)
            with os.fdopen(handle, 'wb', closefd=False) as file:
                file.write(data)
        except OSError as error:
            raise self._explained(error) from error
        finally:
            os.close(handle)
        self._checksum = zlib.crc32(data, self._checksum)
        self.done += len(block)

    def save(self) -> None:
        """Bring the rows to the disk and note them in the record."""
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
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> Exception:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return error
        return UserError(
            f'cannot write {self.path}: {error.strerror}. Make room and start again; '
            'the features that are saved are kept'
        )

    def __getitem__(self, rows: slice) -> Tensor:
        """Rows as a tensor in memory.

        Raises:
            UserError: If the file no longer holds them.
        """
        start, stop, _ = rows.indices(self.count)
        shape = max(stop - start, 0), self.width
        found = np.empty(shape, np.float32)
        read = 0
        if found.size:
            try:
                with open(self.path, 'rb') as file:
                    file.seek(4 * start * self.width)
                    read = file.readinto(found)  # type: ignore[attr-defined]
            except FileNotFoundError:
                pass
        if read != found.nbytes:
            raise UserError(
                f'{self.path} was cut or removed while it was being read; start '
                'again, to compute its features again'
            )
        return torch.from_numpy(found)

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows, ``size`` at a time, as a tensor's ``split`` gives them."""
        return (self[start : start + size] for start in range(0, self.count, size))
