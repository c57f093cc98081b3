"""Names of images in one buffer, which neither workers nor ranks have to copy."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union, overload

import numpy as np

from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import name_bytes, name_text
from cotap_mm.ops.sampling import evenly_spaced

from .formats import DEEP_SUFFIXES, SAMPLED, end_with

_BLOCK = 1 << 16  # names that are processed at a time
_CHUNK = 1 << 22  # bytes that are searched for separators at a time
_SEPARATOR = 0  # between two names in the buffer; no file name contains it
_LONGEST = 1 << 16  # bytes of a name in an index; no file has a longer one


class NameFacts(NamedTuple):
    """What an index says of its names, which saves reading all of them.

    Attributes:
        digest (str): See :meth:`Names.digest`.
        suffixes (tuple[str, ...]): Suffixes of the chosen names.
        most (int): Largest number of chosen names.
        chosen (list[int]): See :meth:`Names.some_ending`.
    """

    digest: str
    suffixes: tuple[str, ...]
    most: int
    chosen: list[int]

    @classmethod
    def of(cls, names: Names) -> NameFacts:
        """Read the names, and find what a training asks of them.

        Args:
            names (Names): The names.
        """
        chosen = names.some_ending(DEEP_SUFFIXES, SAMPLED)
        return cls(names.digest(), DEEP_SUFFIXES, SAMPLED, chosen)

    @classmethod
    def read(cls, kept: dict[str, Any]) -> NameFacts:
        """Restore what :meth:`_asdict` and JSON made of it.

        Args:
            kept (dict): The facts.
        """
        return cls(**dict(kept, suffixes=tuple(kept['suffixes'])))


class Names(Sequence):
    """Names as bytes of one buffer: a sequence of ``str`` that holds no Python object per name.

    A list of strings takes about 100 bytes per name, and a forked worker copies each page of it
    that it reads, since reading changes reference counts. Here a name takes its bytes in UTF-8
    plus 5 or 9, and reading changes nothing. Slices share the buffer. It compares equal to any
    sequence of the same names.

    Args:
        names (iterable[str]): The names; bytes that are not UTF-8 as surrogate escapes.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        parts = [_encode(name) for name in names]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        self._set(np.frombuffer(b'\0'.join(parts), np.uint8), _starts_of(lengths))

    @classmethod
    def from_buffer(
        cls,
        buffer: np.ndarray,
        starts: np.ndarray,
        reopen: Optional[Callable[[], Names]] = None,
        facts: Optional[NameFacts] = None,
    ) -> Names:
        """Wrap existing arrays, which may be memory-mapped, without copying them.

        Args:
            buffer (np.ndarray): Names with one zero byte between two of them, uint8.
            starts (np.ndarray): Start of each name, and the length of the buffer + 1, unsigned
                integers, shape (N + 1,).
            reopen (callable, optional): Picklable; returns equal names. Another process calls it
                instead of receiving a copy. Defaults to None.
            facts (NameFacts, optional): What is known of the names. Defaults to None.
        """
        names = cls.__new__(cls)
        names._set(buffer, starts, reopen, facts)
        return names

    @classmethod
    def from_joined(cls, data: bytes, separator: bytes = b'\0') -> Names:
        """Split bytes at a separator of one byte; empty data are one empty name.

        Args:
            data (bytes): The names.
            separator (bytes): Byte between two names. Defaults to a zero byte.
        """
        if separator != b'\0':
            data = data.replace(separator, b'\0')
        buffer = np.frombuffer(data, np.uint8)
        starts = np.empty(data.count(b'\0') + 2, offset_type(len(data)))
        starts[0], starts[-1], filled = 0, len(data) + 1, 1
        for first in range(0, len(data), _CHUNK):
            found = np.flatnonzero(buffer[first : first + _CHUNK] == _SEPARATOR)
            starts[filled : filled + len(found)] = found + (first + 1)
            filled += len(found)
        return cls.from_buffer(buffer, starts)

    @classmethod
    def concatenate(cls, parts: Sequence[Names]) -> Names:
        """Concatenate names.

        Args:
            parts (sequence[Names]): The names.
        """
        filled = [part for part in parts if len(part)]
        if len(filled) < 2:
            return filled[0] if filled else cls()
        data = b'\0'.join(part._bytes() for part in filled)
        lengths = np.concatenate([part._lengths() for part in filled])
        return cls.from_buffer(np.frombuffer(data, np.uint8), _starts_of(lengths))

    def _set(
        self,
        buffer: np.ndarray,
        starts: np.ndarray,
        reopen: Optional[Callable[[], Names]] = None,
        facts: Optional[NameFacts] = None,
    ) -> None:
        self._buffer, self._starts, self._reopen = buffer, starts, reopen
        self._facts = facts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Names: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[str, Names]:
        """Return a name, or the names of a slice; those of consecutive names share the buffer."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return Names(self[i] for i in range(start, stop, step))
            stop = max(start, stop)
            return Names.from_buffer(self._buffer, self._starts[start : stop + 1])
        return name_text(self.encoded(index))

    def encoded(self, index: int) -> bytes:
        """Bytes of a name.

        Args:
            index (int): Index of the name; negative ones count from the end.

        Raises:
            UserError: If the names are in a memory-mapped index that is damaged here.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f'the index of a name must be below {count}, got {index}')
        if index < 0:
            index += count
        start, after = int(self._starts[index]), int(self._starts[index + 1])
        if self._reopen is not None and not 0 < after - start <= _LONGEST:
            raise UserError(
                f'the index of the images is damaged: name {index} of {count} goes from byte '
                f'{start} to {after - 1}; delete the index, or set COTAP_INDEX=0, and start again'
            )
        return self._buffer[start : after - 1].tobytes()

    def __iter__(self) -> Iterator[str]:
        for names in self.encoded_blocks():
            yield from map(name_text, names)

    def encoded_blocks(self, size: int = _BLOCK) -> Iterator[list[bytes]]:
        """Iterate over the bytes of all names.

        Args:
            size (int): Number of names in a list. Defaults to 65,536.
        """
        for first in range(0, len(self), size):
            yield self[first : first + size]._split()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return len(self) == len(other) and all(
                np.array_equal(a._lengths(), b._lengths()) and a._bytes() == b._bytes()
                for first in range(0, len(self), _BLOCK)
                for a, b in [(self[first : first + _BLOCK], other[first : first + _BLOCK])]
            )
        if isinstance(other, (list, tuple)):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        shown = ', '.join(map(repr, self[:3]))
        return f'Names([{shown}{", ..." if len(self) > 3 else ""}], {len(self):,} in all)'

    @property
    def nbytes(self) -> int:
        """Size of buffer and offsets in bytes."""
        return self._used().nbytes + self._starts.nbytes

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Buffer and starts as :meth:`from_buffer` takes them, from the first name on."""
        first = self._starts[0]
        return self._used(), self._starts - first if first else self._starts

    def joined(self, separator: bytes = b'\0') -> Iterator[bytes]:
        """Iterate over pieces of all names with a separator of one byte between them.

        Args:
            separator (bytes): The byte. Defaults to a zero byte.
        """
        byte = separator[0]
        for first in range(0, len(self), _BLOCK):
            last = min(first + _BLOCK, len(self))
            start = int(self._starts[first])
            # With the separator after the block, unless it is the last one.
            stop = int(self._starts[last]) - (last == len(self))
            piece = self._buffer[start:stop]
            if byte != _SEPARATOR:
                piece = piece.copy()
                ends = self._starts[first + 1 : last + (last < len(self))].astype(np.int64)
                piece[ends - 1 - start] = byte
            yield piece.tobytes()

    def digest(self, separator: bytes = b'\0', before: bytes = b'') -> str:
        """SHA-256 of the names with a separator of one byte between them, in hexadecimal digits.

        It equals that of ``separator.join(map(name_bytes, names))``.

        Args:
            separator (bytes): The byte. Defaults to a zero byte.
            before (bytes): Bytes that are hashed before the names. Defaults to none.
        """
        if self._facts is not None and separator == b'\0' and not before:
            return self._facts.digest
        digest = hashlib.sha256(before)
        for piece in self.joined(separator):
            digest.update(piece)
        return digest.hexdigest()

    def some_ending(self, suffixes: Sequence[str], most: int) -> list[int]:
        """Indices of evenly spaced names among those that end with one of some suffixes.

        Args:
            suffixes (sequence[str]): See :func:`.end_with`.
            most (int): Largest number of indices.

        Returns:
            list[int]: Increasing indices, the first such name first.
        """
        known = self._facts
        if known is not None and known.suffixes == tuple(suffixes) and known.most == most:
            return list(known.chosen)
        found = end_with(self._buffer, self._starts, suffixes)
        return nth_true(found, evenly_spaced(int(found.sum()), most))

    def __getstate__(self) -> dict[str, Any]:
        if self._reopen is not None:
            return dict(reopen=self._reopen)
        return dict(arrays=(*self.arrays(), None, self._facts))

    def __setstate__(self, state: dict[str, Any]) -> None:
        if 'reopen' in state:
            same = state['reopen']()
            self._set(same._buffer, same._starts, same._reopen, same._facts)
        else:
            self._set(*state['arrays'])

    def _used(self) -> np.ndarray:
        """The part of the buffer that these names occupy."""
        return self._buffer[int(self._starts[0]) : max(int(self._starts[-1]) - 1, 0)]

    def _bytes(self) -> bytes:
        return self._used().tobytes()

    def _lengths(self) -> np.ndarray:
        return np.diff(self._starts.astype(np.int64)) - 1

    def _split(self) -> list[bytes]:
        data = self._bytes()
        names = data.split(b'\0') if len(self) else []
        if len(names) != len(self):  # a name that is not one of a file has a zero byte
            names = [self.encoded(i) for i in range(len(self))]
        return names


def names_of(source: Any) -> Names:
    """Names of all images of a source, without a copy if it has them as :class:`Names`.

    Args:
        source (ImageSource): The images.
    """
    names = getattr(source, 'names', None)
    if isinstance(names, Names) and len(names) == len(source):
        return names
    return Names(source.name(index) for index in range(len(source)))


def paths_of(root: str, names: Iterable[bytes]) -> list[Union[str, bytes]]:
    """Paths of files for the functions of ``os``; bytes where that saves decoding them.

    Args:
        root (str): Folder that the names are relative to; '' if they are paths.
        names (iterable[bytes]): Encoded names, see :meth:`Names.encoded_blocks`.
    """
    if os.name == 'posix' and sys.getfilesystemencoding() == 'utf-8':
        start = os.path.join(name_bytes(root), b'')
        # As os.path.join, whose result for an absolute name is this name.
        return [name if name[:1] == b'/' else start + name for name in names]
    return [os.path.join(root, name_text(name)) for name in names]


def nth_true(mask: np.ndarray, wanted: Sequence[int]) -> list[int]:
    """Indices of some of the true values of a mask, without an array of all of them.

    Args:
        mask (np.ndarray): Shape (N,), bool.
        wanted (sequence[int]): Increasing numbers of the true values, from 0.
    """
    found: list[int] = []
    passed = 0
    for first in range(0, len(mask), _BLOCK):
        block = mask[first : first + _BLOCK]
        count = int(np.count_nonzero(block))
        here = [each - passed for each in wanted[len(found) :] if each < passed + count]
        if here:
            found += (first + np.flatnonzero(block)[here]).tolist()
        passed += count
        if len(found) == len(wanted):
            break
    return found


def _encode(name: str) -> bytes:
    try:
        return name_bytes(name)
    except UnicodeEncodeError:  # a lone surrogate, which no file has; reading it reports that
        return name.encode('utf-8', 'surrogatepass')


def offset_type(size: int) -> type:
    """Return the smallest type of the offsets of a buffer.

    Args:
        size (int): Its length in bytes.
    """
    return np.uint32 if size < 2**32 - 1 else np.uint64


def _starts_of(lengths: np.ndarray) -> np.ndarray:
    """Starts of names of these lengths, and the end of the last one + 1."""
    total = int(lengths.sum()) + len(lengths)
    starts = np.zeros(len(lengths) + 1, offset_type(total))
    np.cumsum(lengths + 1, dtype=starts.dtype, out=starts[1:])
    return starts
