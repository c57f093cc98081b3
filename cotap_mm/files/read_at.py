"""Read parts of an open file at given offsets, without a file position."""

from __future__ import annotations

import os
import threading
from typing import BinaryIO

_LOCK = threading.Lock()


def read_at(file: BinaryIO, size: int, offset: int) -> bytes:
    """Read bytes at an offset.

    Processes that share an open file after a fork, and threads, can read at the same time.

    Args:
        file (BinaryIO): An open file.
        size (int): Number of bytes; a system returns at most 2 GiB at once.
        offset (int): Offset of the first byte.

    Returns:
        bytes: Fewer than ``size`` bytes at the end of the file.

    Raises:
        OSError: If the disk fails.
    """
    if hasattr(os, 'pread'):
        return os.pread(file.fileno(), size, offset)
    with _LOCK:
        file.seek(offset)
        return file.read(size)


def read_exactly(file: BinaryIO, size: int, offset: int) -> bytes:
    """Read ``size`` bytes at an offset.

    Args:
        file (BinaryIO): An open file.
        size (int): Number of bytes.
        offset (int): Offset of the first byte.

    Returns:
        bytes: Exactly ``size`` bytes.

    Raises:
        EOFError: If the file ends before.
        OSError: If the disk fails.
    """
    data = read_at(file, size, offset)
    while len(data) < size:
        more = read_at(file, size - len(data), offset + len(data))
        if not more:
            raise EOFError(
                f'it ends at byte {offset + len(data)}, before the end of its data; the file is '
                'truncated'
            )
        data += more
    return data
