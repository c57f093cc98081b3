"""Read an LMDB file without mapping it into memory.

A mapped file kills its process (SIGBUS) if it is truncated or its disk fails, and LMDB does not
validate the page numbers in a file. This reader checks the bounds of each page, so that any damage
is an error that can be caught. Format: LMDB 0.9, ``lmdb.h`` and ``mdb.c`` of
https://git.openldap.org/openldap/openldap (data version 1, 64 bits, little-endian).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Optional

from cotap_mm.files.atomic_write import open_regular
from cotap_mm.files.read_at import read_exactly

_MAGIC, _DATA_VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4  # flags of a page
_IS_BIG = 1  # flag of a node: its data are stored on overflow pages
_HEADER = struct.Struct('<QHHHH')  # page number, pad, flags, lower, upper
_NODE = struct.Struct('<HHHH')  # low and high half of a size or page number, flags, key size
_META = struct.Struct('<IIQQ')  # magic, version, address, map size
_DB = struct.Struct('<IHHQQQQQ')  # pad, flags, depth, branches, leaves, overflows, entries, root
_EMPTY = 2**64 - 1  # root of an empty tree
_MAX_LEVELS = 32
_CACHED = 1024  # pages


class DamagedLmdb(ValueError):
    """An LMDB file is damaged or truncated."""


class _Meta(NamedTuple):
    page_size: int
    entries: int
    root: int
    free_root: int
    last_page: int
    transaction: int


class LmdbReader:
    """Read the main table of an LMDB file.

    Args:
        path (str | Path): The file.

    Attributes:
        entries (int): Number of keys.

    Raises:
        DamagedLmdb: If its first pages are not those of an LMDB file.
        OSError: If the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = open_regular(path)
        self.status = os.fstat(self._file.fileno())
        first = self._meta(0)
        second = self._meta(first.page_size)
        self._current = max(first, second, key=lambda meta: meta.transaction)
        if second.page_size != first.page_size:
            raise DamagedLmdb('its two meta pages differ')
        self.entries = self._current.entries
        self._page = lru_cache(maxsize=_CACHED)(self._read_page)

    @property
    def is_short(self) -> bool:
        """Whether the file is now smaller than its pages require."""
        needed = (self._current.last_page + 1) * self._current.page_size
        return os.fstat(self._file.fileno()).st_size < needed

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def get(self, key: bytes, limit: Optional[int] = None) -> Optional[bytes]:
        """Return the value of a key, or None if it does not exist.

        Args:
            key (bytes): The key.
            limit (int, optional): Maximum size of the value in bytes. Defaults to None, no limit.

        Raises:
            DamagedLmdb: If a page on the path to the value is damaged, or the value exceeds the
                limit.
            OSError: If the disk fails.
        """
        number = self._current.root
        if number == _EMPTY:
            return None
        for _ in range(_MAX_LEVELS):
            page = self._page(number)
            index, is_equal = _search(page, key, number)
            if _flags(page) & _LEAF:
                return self._value(page, index, number, limit) if is_equal else None
            number = _child(page, index, number)
        raise DamagedLmdb(f'its tree has more than {_MAX_LEVELS} levels')

    def check(self) -> None:
        """Traverse all pages that hold keys, and check that all values lie in the file.

        Raises:
            DamagedLmdb: At the first damaged page.
        """
        count = sum(1 for _ in self._walk(self._current.root))
        if count != self.entries:
            raise DamagedLmdb(f'it holds {count} keys instead of {self.entries}')
        for _ in self._walk(self._current.free_root):
            pass

    def _walk(self, root: int) -> Iterator[bytes]:
        """Iterate over all keys, in order."""
        waiting, seen, last = ([] if root == _EMPTY else [root]), set(), None
        while waiting:
            number = waiting.pop()
            if number in seen:
                raise DamagedLmdb(f'page {number} is in its tree twice')
            seen.add(number)
            page = self._read_page(number)
            if _flags(page) & _BRANCH:
                waiting += [_child(page, i, number) for i in range(_count(page) - 1, -1, -1)]
                continue
            for index in range(_count(page)):
                key = _key(page, index, number)
                if last is not None and key <= last:
                    raise DamagedLmdb(f'the keys of page {number} are not in order')
                last = key
                self._locate_value(page, index, number)
                yield key

    def _meta(self, offset: int) -> _Meta:
        data = self._read(offset, 16 + _META.size + 2 * _DB.size + 16)
        magic, version, _, _ = _META.unpack_from(data, 16)
        if magic != _MAGIC:
            raise DamagedLmdb('it is not an LMDB file')
        if version != _DATA_VERSION:
            raise DamagedLmdb(f'it has version {version} of the LMDB format, not {_DATA_VERSION}')
        free = _DB.unpack_from(data, 16 + _META.size)
        main = _DB.unpack_from(data, 16 + _META.size + _DB.size)
        last_page, transaction = struct.unpack_from('<QQ', data, 16 + _META.size + 2 * _DB.size)
        page_size = free[0]
        if page_size not in [1 << bits for bits in range(8, 17)] or main[1]:
            raise DamagedLmdb('its meta page is damaged')
        return _Meta(page_size, main[6], main[7], free[7], last_page, transaction)

    def _read_page(self, number: int) -> bytes:
        """Read a branch or leaf page and check its header."""
        size = self._current.page_size
        if not 2 <= number <= self._current.last_page:
            raise DamagedLmdb(f'it has no page {number}')
        page = self._read(number * size, size)
        own, _, flags, lower, upper = _HEADER.unpack_from(page)
        is_valid = (
            own == number
            and flags & (_BRANCH | _LEAF | _OVERFLOW) in (_BRANCH, _LEAF)
            and _HEADER.size < lower <= upper <= size
            and lower % 2 == 0
        )
        if not is_valid:
            raise DamagedLmdb(f'its page {number} is damaged')
        return page

    def _locate_value(self, page: bytes, index: int, number: int) -> tuple[int, int, int]:
        """First overflow page (0 if the value is in ``page``), offset in that page, and size."""
        offset, node = _node(page, index, number)
        size = node[0] | node[1] << 16
        start = offset + _NODE.size + node[3]
        if not node[2] & _IS_BIG:
            if node[2] or start + size > len(page):
                raise DamagedLmdb(f'its page {number} is damaged')
            return 0, start, size
        if start + 8 > len(page):
            raise DamagedLmdb(f'its page {number} is damaged')
        first = int.from_bytes(page[start : start + 8], 'little')
        length = os.fstat(self._file.fileno()).st_size
        if (
            not 2 <= first <= self._current.last_page
            or first * len(page) + _HEADER.size + size > length
        ):
            raise DamagedLmdb(f'page {first} lies beyond its end; the file is truncated')
        return first, _HEADER.size, size

    def _value(self, page: bytes, index: int, number: int, limit: Optional[int]) -> bytes:
        first, start, size = self._locate_value(page, index, number)
        if limit is not None and size > limit:
            raise DamagedLmdb(f'a value of {size:,} bytes exceeds the limit of {limit:,}')
        if not first:
            return page[start : start + size]
        data = self._read(first * len(page), start + size)
        own, _, flags, *_ = _HEADER.unpack_from(data)
        if own != first or flags & (_BRANCH | _LEAF | _OVERFLOW) != _OVERFLOW:
            raise DamagedLmdb(f'its page {first} is damaged')
        return data[start:]

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return read_exactly(self._file, size, offset)
        except EOFError as error:
            raise DamagedLmdb(str(error)) from error


def _flags(page: bytes) -> int:
    return _HEADER.unpack_from(page)[2]


def _count(page: bytes) -> int:
    return (_HEADER.unpack_from(page)[3] - _HEADER.size) // 2


def _node(page: bytes, index: int, number: int) -> tuple[int, tuple[int, ...]]:
    """Offset and header of a node."""
    offset = int.from_bytes(page[_HEADER.size + 2 * index : _HEADER.size + 2 * index + 2], 'little')
    if not _HEADER.size <= offset <= len(page) - _NODE.size:
        raise DamagedLmdb(f'its page {number} is damaged')
    node = _NODE.unpack_from(page, offset)
    if offset + _NODE.size + node[3] > len(page):
        raise DamagedLmdb(f'its page {number} is damaged')
    return offset, node


def _key(page: bytes, index: int, number: int) -> bytes:
    offset, node = _node(page, index, number)
    return page[offset + _NODE.size : offset + _NODE.size + node[3]]


def _child(page: bytes, index: int, number: int) -> int:
    low, high, flags, _ = _node(page, index, number)[1]
    return low | high << 16 | flags << 32


def _search(page: bytes, key: bytes, number: int) -> tuple[int, bool]:
    """In a leaf the node of a key and whether it exists; in a branch the child to descend to."""
    is_leaf = bool(_flags(page) & _LEAF)
    low, high = (0 if is_leaf else 1), _count(page)  # a branch's first key is empty
    while low < high:
        middle = (low + high) // 2
        if _key(page, middle, number) <= key:
            low = middle + 1
        else:
            high = middle
    return low - 1, is_leaf and low > 0 and _key(page, low - 1, number) == key
