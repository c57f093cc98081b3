"""Index of a large folder or packed file: its names, kept for the next start and other processes.

It is stored next to the folder as a hidden file, or in the user's cache folder if that is not
writable, and memory-mapped if it is large. It is used as long as no folder has changed since the
scan, which takes one ``stat`` per folder and none per image. Of a mapped one, all but the names is
verified by checksums, and some of the names; what :class:`.NameFacts` tells of them is in it.
Nobody can set the time of a change (``ctime``), so an index in a copied or unpacked folder is
never used. The environment variable ``COTAP_INDEX=0`` turns it off.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import socket
import struct
import time
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

import numpy as np
from mmengine.logging import print_log

from cotap_mm.datasets.sources.formats import IMAGE_SUFFIXES
from cotap_mm.datasets.sources.names import NameFacts, Names
from cotap_mm.files.atomic_write import atomic_write, open_regular, printable
from cotap_mm.ops.sampling import evenly_spaced

from .scan import Scan, stamps_of

MIN_IMAGES = 10_000  # smaller folders are listed within a fraction of a second
_MAGIC = b'cotap_mm index 3'
_HEAD = struct.Struct('<16sQQ')  # magic, size and CRC-32 of the header
_MAX_HEADER = 1 << 20
#: Name in the file -> types that it may have.
_SECTIONS = dict(
    folders=('|u1',),
    folder_starts=('<u4', '<u8'),
    stamps=('<i8',),
    links=('|u1',),
    link_starts=('<u4', '<u8'),
    names=('|u1',),
    starts=('<u4', '<u8'),
)
_ALIGNED = 8
_BLOCK = 1 << 20
MAPPED = 1 << 26  # bytes; smaller files are read, which no failing disk can interrupt later
_CHECKED = 64  # names of a mapped file
_SETTLED = 2.0  # seconds; the largest unit of the times of a file system


class Index(NamedTuple):
    """What is known of a folder.

    Attributes:
        names (Names): Its images.
        skipped (Counter): See :class:`.Scan`.
        links (Names): See there.
    """

    names: Names
    skipped: Counter
    links: Names


class _Unsettled(Exception):
    """A folder has just been changed, and might change again without another time."""


def read_index(root: Path, base: Optional[Path] = None) -> Optional[Index]:
    """Read the index of a folder; None if there is none, or it is damaged or out of date.

    Args:
        root (Path): The folder, or a packed file.
        base (Path, optional): Folder that the folders of the scan are relative to. Defaults to
            ``root``.
    """
    for path in _paths(root):
        try:
            return _read(path, base or root)
        except FileNotFoundError:
            pass
        # A damaged file can raise any exception; it is replaced after the scan.
        except Exception as error:
            print_log(
                f'{printable(path)} is not used: {error}', logger='current', level=logging.DEBUG
            )
    return None


def write_index(
    root: Path,
    scan: Scan,
    base: Optional[Path] = None,
    least: Optional[int] = None,
    is_writer: bool = False,
) -> Optional[Names]:
    """Keep the result of a scan, if the folder is large; by one process per machine.

    Args:
        root (Path): The folder, or a packed file.
        scan (Scan): Its content.
        base (Path, optional): See :func:`read_index`.
        least (int, optional): Number of images from which on it is large. Defaults to 10,000.
        is_writer (bool): Whether this process is the one. Defaults to False: the one of local
            rank 0.

    Returns:
        Names: The names in the file; None if it was not written.
    """
    least = MIN_IMAGES if least is None else least
    is_writer = is_writer or not _local_rank()
    if len(scan.names) < least or not scan.is_repeatable or not is_writer:
        return None
    for path in _paths(root):
        try:
            _write(path, scan)
            index = _read(path, base or root)
        except (_Unsettled, ValueError) as error:  # changed now; the next start tries again
            print_log(f'no index is kept: {error}', logger='current', level=logging.DEBUG)
            return None
        except OSError as error:
            print_log(
                f'cannot write {printable(path)}: {error}', logger='current', level=logging.DEBUG
            )
            continue
        print_log(
            f'the list of the {len(scan.names):,} images of {printable(root)} is kept in '
            f'{printable(path)} for the next start, until that changes (COTAP_INDEX=0 turns '
            'this off)',
            logger='current',
        )
        return index.names
    return None


def _paths(root: Path) -> list[Path]:
    """Possible paths of the index, the preferred one first; empty if it is turned off."""
    if os.environ.get('COTAP_INDEX', '1') == '0':
        return []
    real = Path(os.path.realpath(root))
    paths = [real.parent / f'.{real.name}.cotap_mm_index'] if real.name else []
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    if os.path.isabs(cache):
        name = hashlib.sha256(os.fsencode(real)).hexdigest()[:32]
        paths.append(Path(cache) / 'cotap_mm' / 'indexes' / f'{name}.index')
    return paths


def lock_path(root: Path) -> Optional[Path]:
    """Lock of the process of this machine that lists a large folder; None if no index is kept."""
    paths = _paths(root)
    if not paths:
        return None
    return paths[-1].with_name(f'{paths[-1].name}.{socket.gethostname()}.lock')


def _local_rank() -> int:
    return int(os.environ.get('LOCAL_RANK') or os.environ.get('SLURM_LOCALID') or 0)


def _write(path: Path, scan: Scan) -> None:
    """Write an index atomically.

    Raises:
        _Unsettled: If a folder was changed less than two seconds before the scan, or later.
        OSError: If the file cannot be written.
    """
    folders, folder_starts = scan.folders.arrays()
    names, starts = scan.names.arrays()
    links, link_starts = scan.links.arrays()
    arrays = dict(
        folders=folders,
        folder_starts=folder_starts,
        stamps=scan.stamps,
        links=links,
        link_starts=link_starts,
        names=names,
        starts=starts,
    )
    arrays = {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder('<')).reshape(-1)
        for name, array in arrays.items()
    }
    header = json.dumps(
        dict(
            suffixes=IMAGE_SUFFIXES,
            skipped=scan.skipped,
            facts=NameFacts.of(scan.names)._asdict(),
            sections={
                name: [array.dtype.str, array.size, _crc32(array.view(np.uint8))]
                for name, array in arrays.items()
            },
        )
    ).encode()
    header += b' ' * (-len(header) % _ALIGNED)
    _check_settled(scan, 0.0)
    with atomic_write(path) as unfinished, open(unfinished, 'wb') as file:
        file.write(_HEAD.pack(_MAGIC, len(header), zlib.crc32(header)) + header)
        file.flush()
        # A file server whose clock is slow would make a change look older than it is.
        _check_settled(scan, min(os.stat(unfinished).st_mtime - time.time(), 0.0))
        for array in arrays.values():
            file.write(array.view(np.uint8))
            file.write(bytes(-array.nbytes % _ALIGNED))


def _check_settled(scan: Scan, clock_error: float) -> None:
    latest = scan.stamps[:, :2].max() / 1e9
    if latest > scan.began + clock_error - _SETTLED:
        raise _Unsettled('the folder was changed within the last seconds')


def _read(path: Path, root: Path, same: Optional[int] = None) -> Index:
    """Read an index.

    Args:
        path (Path): The file.
        root (Path): Its folder.
        same (int, optional): CRC-32 of the header that is expected, instead of checking the
            folder. Defaults to None.

    Raises:
        Exception: Of any type, if the file is damaged, out of date, or not an index.
    """
    data = _content(path)
    magic, size, crc = _HEAD.unpack_from(data)
    text = bytes(memoryview(data)[_HEAD.size : _HEAD.size + min(size, _MAX_HEADER)])
    if magic != _MAGIC or len(text) != size or zlib.crc32(text) != crc:
        raise ValueError('it is damaged or not an index')
    if same is not None and crc != same:
        raise ValueError('it was replaced since it was opened; start again')
    header = json.loads(text)
    if header['suffixes'] != list(IMAGE_SUFFIXES):
        raise ValueError('it was written for other image formats')
    is_mapped = isinstance(data, mmap.mmap)
    sections = _sections(data, _HEAD.size + size, header['sections'], is_mapped)
    if same is None:
        folders = checked_names(sections['folders'], sections['folder_starts'])
        stamps = sections['stamps'].reshape(-1, 3)
        if len(folders) != len(stamps) or (stamps == -1).any():
            raise ValueError('it is damaged')
        if not np.array_equal(stamps_of(root, folders), stamps):
            raise ValueError('the folder has changed')
    names = checked_names(
        sections['names'],
        sections['starts'],
        is_mapped,
        NameFacts.read(header['facts']),
        partial(_reopen, path, root, crc) if is_mapped else None,
    )
    skipped = Counter({str(key): int(count) for key, count in header['skipped'].items()})
    links, starts = sections['links'], sections['link_starts']
    return Index(names, skipped, checked_names(links, starts) if links.size else Names())


def _reopen(path: Path, root: Path, crc: int) -> Names:
    """Map the file again in another process that received the names."""
    return _read(path, root, crc).names


def _content(path: Path) -> Union[bytes, mmap.mmap]:
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size < MAPPED:
            return file.read()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _sections(
    data: Union[bytes, mmap.mmap], start: int, stated: dict[str, Any], is_mapped: bool
) -> dict[str, np.ndarray]:
    """Find the arrays of a file and compare their checksums; of a mapped one not of the names."""
    sections = {}
    for name, types in _SECTIONS.items():
        kind, count, crc = stated[name]
        dtype = np.dtype(types[types.index(kind)])
        if type(count) is not int or count < 0 or start + count * dtype.itemsize > len(data):
            raise ValueError('it is truncated')
        sections[name] = np.frombuffer(data, dtype, count, start)
        is_read = not (is_mapped and name in ('names', 'starts'))
        if is_read and _crc32(sections[name].view(np.uint8)) != crc:
            raise ValueError('its checksum is wrong')
        start += sections[name].nbytes + -sections[name].nbytes % _ALIGNED
    if start != len(data):
        raise ValueError('it has a wrong size')
    return sections


def _crc32(data: np.ndarray) -> int:
    crc = 0
    for start in range(0, len(data), _BLOCK):
        crc = zlib.crc32(data[start : start + _BLOCK], crc)
    return crc


def checked_names(
    buffer: np.ndarray,
    starts: np.ndarray,
    is_mapped: bool = False,
    facts: Optional[NameFacts] = None,
    reopen: Optional[Callable[[], Names]] = None,
) -> Names:
    """Names of two arrays of a file, whose starts must increase within the buffer.

    Of a mapped file, which is not read as a whole, some evenly spaced names are checked.

    Args:
        buffer (np.ndarray): See :meth:`.Names.from_buffer`.
        starts (np.ndarray): See there.
        is_mapped (bool): Whether the file is mapped into memory. Defaults to False.
        facts (NameFacts, optional): What is known of the names. Defaults to None.
        reopen (callable, optional): See there. Defaults to None.

    Returns:
        Names: Without a copy of the arrays.

    Raises:
        ValueError: If they are damaged.
    """
    if len(starts) < 1 or starts[0] != 0 or int(starts[-1]) != len(buffer) + 1:
        raise ValueError('its names are damaged')
    first, after = starts[:-1], starts[1:]
    if is_mapped:
        some = np.array(evenly_spaced(len(first), _CHECKED), np.intp)
        first, after = first[some].astype(np.int64), after[some].astype(np.int64)
        # A name has no zero byte at its ends, and one before it.
        place = np.clip([first, after - 2, first - 1], 0, len(buffer) - 1)
        start, end, before = buffer[place] == 0
        if (start | end | (~before & (first > 0))).any():
            raise ValueError('its names are damaged')
    if (after <= first).any():
        raise ValueError('its names are damaged')
    return Names.from_buffer(buffer, starts, reopen, facts)
