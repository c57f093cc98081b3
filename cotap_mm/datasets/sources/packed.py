"""Pack millions of image files into one LMDB with random access."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from mmengine.logging import print_log

from cotap_mm.files.atomic_write import UnusableFile, name_bytes, printable
from cotap_mm.files.locks import acquire_lock
from cotap_mm.progress import Progress
from cotap_mm.registry import DATASETS

from .decoding import MAX_IMAGE_BYTES, BadImage, UnreachableImage, read_image_bytes
from .files import EncodedImages, ImageList
from .fingerprints import fingerprint_of, range_key
from .folders.index_file import read_index, write_index
from .folders.scan import Scan, stamp_of
from .lmdb_reader import DamagedLmdb, LmdbReader
from .names import Names
from .value_range import Option

PACKED_SUFFIX = '.lmdb'
_FORMAT, _NAMES = b'format', b'names'
_VERSION = b'cotap_mm packed images 2'
# Separator of the names; version 1 did not support names with a line break.
_SEPARATORS = {b'cotap_mm packed images 1': b'\n', _VERSION: b'\0'}
_START = 1 << 26  # initial map size in bytes; doubled when it is full
_BLOCK = 256  # images per transaction
_INDEXED = 1_000_000  # images from which on their names are kept in an index


def _import_lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(
            'packing images requires lmdb, which is not installed: pip install lmdb'
        ) from error
    return lmdb


def _key(index: int) -> bytes:
    return int(index).to_bytes(8, 'big')  # sorted like the numbers, so that writing only appends


@DATASETS.register_module()
class PackedImages(EncodedImages):
    """Images in one file written by :func:`pack_images`.

    Names and order are those of the original files, so a run draws the same samples from either,
    and neighbor files fit both. Random access is cheap; the operating system caches recently read
    pages, once for all workers. The file is not memory-mapped: if it is damaged, or truncated
    while it is open, the affected images are reported as bad images.

    Args:
        root (str | Path): The file, ``*.lmdb``.
        value_range (str | tuple, optional): See :class:`ImageList`. Defaults to ``'auto'``.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a complete file of packed images.
    """

    def __init__(self, root: Union[str, Path], value_range: Option = 'auto') -> None:
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise FileNotFoundError(
                f'packed images {printable(root)} do not exist; create them with '
                'cotap pack --images IMAGES --out FILE.lmdb'
            )
        self._reader: Optional[LmdbReader] = None
        self._opened_as: Optional[tuple[int, ...]] = None
        try:
            reader = self._open()
            if reader.is_short:
                reader.check()
            super().__init__(self._names(reader), value_range)
        except DamagedLmdb as error:
            raise ValueError(
                f'{printable(root)} is damaged or not an LMDB file: {error}; create it '
                'again with cotap pack --overwrite'
            ) from error

    def _names(self, reader: LmdbReader) -> Names:
        # The names are one value of the file; an index is mapped, and shared by all processes.
        path, count = Path(os.path.realpath(self.root)), reader.entries - 2
        index = read_index(path, path.parent) if count >= _INDEXED else None
        listed = self._listed(reader) if index is None else index.names
        if index is None and count == len(listed):
            file, stamp = Names([path.name]), np.array([stamp_of(reader.status)])
            scan = Scan(listed, file, stamp, Counter(), [], True, time.time())
            listed = write_index(path, scan, path.parent, _INDEXED) or listed
        if count != len(listed):
            raise ValueError(
                f'{printable(self.root)} lists {len(listed)} images and contains {count}; create '
                'it again with cotap pack --overwrite'
            )
        return listed

    def _listed(self, reader: LmdbReader) -> Names:
        version, names = reader.get(_FORMAT), reader.get(_NAMES)
        if version not in _SEPARATORS or names is None:
            raise ValueError(
                f'{printable(self.root)} does not contain images packed by '
                f'cotap pack: expected format {_VERSION!r}, got {version!r}'
            )
        return Names.from_joined(names, _SEPARATORS[version])

    def encoded(self, index: int) -> bytes:
        """Content of an image's file; raises :class:`BadImage` if it cannot be read."""
        try:
            data = self._open().get(_key(index), MAX_IMAGE_BYTES)
        except (DamagedLmdb, UnusableFile) as error:
            raise BadImage(
                f'{printable(self.title(index))}: the packed file is damaged: {error}'
            ) from error
        except OSError as error:
            self._reader = None  # a handle stays stale after its network disk was gone
            raise UnreachableImage(
                f'{printable(self.title(index))}: {type(error).__name__}: {error}'
            ) from error
        if not data:
            raise BadImage(f'{printable(self.title(index))}: could not be read when it was packed')
        return data

    def title(self, index: int) -> str:
        """Path of the packed file and name of the image, for messages."""
        return f'{self.root}: {self.names[index]}'

    def fingerprint(self) -> str:
        """Digest of the names, and of the file's size and modification time."""
        status = self._open().status
        facts = f'{status.st_size} {status.st_mtime_ns}\n'.encode()
        return self.names.digest(before=range_key(self.found_range()) + facts)

    def is_reachable(self) -> bool:
        """Whether the file exists; False if a network disk is gone."""
        return os.path.exists(self.root)  # not Path.exists, which raises for a stale handle

    def _open(self) -> LmdbReader:
        if self._reader is None:
            reader = LmdbReader(self.root)
            same = (reader.status.st_ino, reader.status.st_size, reader.status.st_mtime_ns)
            if self._opened_as not in (None, same):
                raise DamagedLmdb('it was replaced since it was opened; start again')
            self._opened_as, self._reader = same, reader
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__, _reader=None)  # other processes reopen the file


def pack_images(source: ImageList, out: Union[str, Path], threads: int = 8) -> list[str]:
    """Copy image files, unchanged, into one file for :class:`PackedImages`.

    An interrupted run resumes when it is started again; until the file is complete, its name is
    ``out`` + ``.part``.

    Args:
        source (ImageList): The files.
        out (str | Path): The file to write, ``*.lmdb``; replaced if it exists.
        threads (int): Number of files read in parallel. Defaults to 8.

    Returns:
        list[str]: Names of files that could not be read. They keep their index, and count as bad
        images in the packed file.

    Raises:
        ValueError: If ``out`` does not end in ``.lmdb``.
        ImportError: If lmdb is not installed.
        Locked: If another process is writing the file.
        OSError: If the disk is full; start again with the same names after freeing space.
    """
    out = Path(out)
    lmdb = _import_lmdb()
    if out.suffix != PACKED_SUFFIX:
        raise ValueError(f'the name of packed images must end in {PACKED_SUFFIX}, got {out}')
    lock = acquire_lock(
        out.with_name(f'{out.name}.lock'),
        f'packing {printable(out.name)}',
        'wait for it, or write another file',
    )
    try:
        return _pack(source, out, threads)
    except lmdb.Error as error:
        raise OSError(
            f'cannot write {printable(out)}.part: {error}; free disk space and start again, '
            'the images written so far are kept'
        ) from error
    finally:
        lock.release()


def _pack(source: ImageList, out: Path, threads: int) -> list[str]:
    part = out.with_name(f'{out.name}.part')
    names = b''.join(source.names.joined(_SEPARATORS[_VERSION]))
    writer = _Writer(part, hashlib.sha256(fingerprint_of(source).encode()).digest())
    try:
        failed = _copy(source, writer, threads)
        writer.put([(_NAMES, names), (_FORMAT, _VERSION)])
    finally:
        writer.close()
    os.replace(part, out)
    return failed


class _Writer:
    """An LMDB file that grows as needed; started over unless it is for the same files."""

    def __init__(self, path: Path, digest: bytes) -> None:
        self.path, self.lmdb = path, _import_lmdb()
        if path.exists() and not self._continue(digest):
            path.unlink()
        if not path.exists():
            self.environment = self._open(_START)
            self.put([(_FORMAT, digest)])
        with self.environment.begin() as view:
            self.done = view.stat()['entries'] - 1

    def _continue(self, digest: bytes) -> bool:
        try:
            reader = LmdbReader(self.path)  # LMDB itself may crash on a damaged file
            reader.check()
            reader.close()
            self.environment = self._open(max(_START, 2 * os.path.getsize(self.path)))
            with self.environment.begin() as view:
                if view.get(_FORMAT) == digest and view.get(_NAMES) is None:
                    return True
        except (self.lmdb.Error, DamagedLmdb, UnusableFile):
            return False
        self.environment.close()
        return False

    def _open(self, map_size: int) -> Any:
        # No lock file: a single process writes, before the others read.
        return self.lmdb.open(
            name_bytes(self.path),
            subdir=False,
            lock=False,
            readahead=False,
            meminit=False,
            map_size=map_size,
        )

    def put(self, items: list[tuple[bytes, bytes]]) -> None:
        """Write all items atomically."""
        while True:
            try:
                with self.environment.begin(write=True) as change:
                    for key, value in items:
                        change.put(key, value)
                return
            except self.lmdb.MapFullError:
                self.environment.set_mapsize(2 * self.environment.info()['map_size'])

    def close(self) -> None:
        self.environment.sync(True)
        self.environment.close()


def _copy(source: ImageList, writer: _Writer, threads: int) -> list[str]:
    if writer.done:
        print_log(f'{writer.done} of {len(source)} images are already packed', logger='current')
    failed = []

    def data_of(index: int) -> bytes:
        try:
            return read_image_bytes(source.root / source.names[index])
        except BadImage as error:
            failed.append(f'{printable(source.names[index])}: {error}')
            return b''

    with (
        ThreadPoolExecutor(threads) as pool,
        Progress(len(source), 'packed images', writer.done) as progress,
    ):
        for start in range(writer.done, len(source), _BLOCK):
            indices = range(start, min(start + _BLOCK, len(source)))
            writer.put(list(zip(map(_key, indices), pool.map(data_of, indices))))
            progress.update(len(indices))
    return failed


def is_packed_file(path: Path) -> bool:
    """Whether a file was written by :func:`.pack_images`, for any images.

    Raises:
        ValueError: If it was not.
    """
    PackedImages(path)
    return True
