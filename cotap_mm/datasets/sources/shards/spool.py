"""Arrays that grow in anonymous temporary files, so that memory does not limit their length."""

from __future__ import annotations

import io
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Optional

import numpy as np

from cotap_mm.datasets.sources.names import Names, offset_type

_BLOCK = 1 << 20  # numbers that are converted at a time
_IN_MEMORY = 1 << 23  # bytes of an array from which on it needs a file


class Spool:
    """An array of numbers that is written piece by piece; in memory until it exceeds 8 MiB.

    Args:
        dtype (str | type): Type of the numbers.
        folder (Path, optional): Folder on the disk to use. Defaults to None, that of temporary
            files.
    """

    def __init__(self, dtype: Any, folder: Optional[Path] = None) -> None:
        self.dtype = np.dtype(dtype)
        self._folder = folder
        self._file: IO[bytes] = io.BytesIO()

    def append(self, values: np.ndarray) -> None:
        """Append numbers, shape (n,); raises OSError if the disk is full."""
        self._file.write(np.ascontiguousarray(values, self.dtype).data)
        if isinstance(self._file, io.BytesIO) and self._file.tell() > _IN_MEMORY:
            start = self._file.getvalue()
            self._file = tempfile.TemporaryFile(dir=self._folder)  # vanishes with its last user
            self._file.write(start)

    def array(self) -> np.ndarray:
        """All numbers so far, read-only; memory-mapped if they are in a file."""
        if isinstance(self._file, io.BytesIO):
            return np.frombuffer(self._file.getvalue(), self.dtype)
        self._file.flush()
        return np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), self.dtype)


class NamesSpool:
    """:class:`.Names` that are written piece by piece.

    Args:
        folder (Path, optional): See :class:`Spool`. Defaults to None.
    """

    def __init__(self, folder: Optional[Path] = None) -> None:
        self._folder = folder
        self._buffer, self._lengths = Spool(np.uint8, folder), Spool(np.uint32, folder)
        self._size = 0  # bytes, each name with a separator

    def append(self, names: Names) -> None:
        """Append names; raises OSError if the disk is full."""
        if not len(names):
            return
        buffer, starts = names.arrays()
        if self._size:
            self._buffer.append(np.zeros(1, np.uint8))
        self._buffer.append(buffer)
        self._lengths.append(np.diff(starts))
        self._size += int(starts[-1])

    def names(self) -> Names:
        """All names so far."""
        starts, end = Spool(offset_type(self._size), self._folder), 0
        starts.append(np.zeros(1, starts.dtype))
        for lengths in blocks(self._lengths.array()):
            ends = end + np.cumsum(lengths, dtype=np.int64)
            starts.append(ends)
            end = int(ends[-1])
        return Names.from_buffer(self._buffer.array(), starts.array())


def blocks(values: np.ndarray, size: int = _BLOCK) -> Iterator[np.ndarray]:
    """Iterate over slices of an array.

    Args:
        values (np.ndarray): Shape (N,).
        size (int): Largest length of a slice. Defaults to 1,048,576.
    """
    for first in range(0, len(values), size):
        yield values[first : first + size]


def has_repeats(hashes: np.ndarray, names: Sequence[str], memory: int = 1 << 25) -> bool:
    """Whether a name occurs twice, with bounded memory.

    Args:
        hashes (np.ndarray): 64-bit hash of each name, shape (N,), int64, N > 0.
        names (Sequence[str]): The names, of which those with equal hashes are compared.
        memory (int): Bytes of hashes that are sorted at a time. Defaults to 32 MiB.
    """
    passes = 1 + hashes.nbytes // memory
    for number in range(passes):
        some = np.concatenate([part[part % passes == number] for part in blocks(hashes)])
        some.sort()
        for value in np.unique(some[1:][some[1:] == some[:-1]]).tolist():
            same = [names[index] for index in positions(hashes, value)]
            if len(set(same)) < len(same):
                return True
    return False


def positions(values: np.ndarray, value: int) -> list[int]:
    """Indices of the elements of an array that equal a value.

    Args:
        values (np.ndarray): Shape (N,).
        value (int): The value.
    """
    return [
        index * _BLOCK + int(place)
        for index, part in enumerate(blocks(values))
        for place in np.flatnonzero(part == value)
    ]
