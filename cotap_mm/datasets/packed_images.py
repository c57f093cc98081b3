"""Millions of image files in one: an LMDB of the files' bytes, read at random."""
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
from mmengine.logging import print_log
from mmengine.utils import ProgressBar

from cotap_mm.registry import DATASETS

from .image_source import BadImage, Enough, ImageList, decode_image, fingerprint_of

PACKED_SUFFIX = '.lmdb'
_FORMAT, _NAMES = b'format', b'names'
_VERSION = b'cotap_mm packed images 1'
_START = 1 << 26  # bytes that a new file may grow to; doubled when they are used up
_BLOCK = 256  # images a transaction


def _import_lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError('packed images need lmdb, which is not installed: pip install '
                          'lmdb') from error
    return lmdb


def _key(index: int) -> bytes:
    return index.to_bytes(8, 'big')  # sorted as the numbers are, so that writing only appends


def _open(path: 'str | Path', **options: Any) -> Any:
    # No lock file: one process writes, before the others read.
    return _import_lmdb().open(str(path), subdir=False, lock=False, readahead=False, meminit=False,
                               **options)


# LMDB opens a file once in a process; what was opened before a fork must be opened again.
_OPENED: Dict[Tuple[str, int], Tuple[int, Any]] = {}


def _reader(path: str, inode: int) -> Any:
    opened_by, opened = _OPENED.get((path, inode), (None, None))
    if opened_by == os.getpid():
        return opened
    if opened is not None:
        opened.close()
    opened = _open(path, readonly=True, max_spare_txns=8)
    _OPENED[path, inode] = os.getpid(), opened
    return opened


@DATASETS.register_module()
class PackedImages:
    """Images that :func:`pack_images` has put into one file.

    Names and order are those of the files it was made of, so a run draws the same
    samples from either, and neighbour files fit both. Any image can be read at any
    time; the operating system keeps in memory what was read lately, once for all
    workers.

    Args:
        root (str | Path): The file, ``*.lmdb``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole file of packed images.
        ImportError: If lmdb is not installed.
    """

    def __init__(self, root: 'str | Path') -> None:
        self.root = Path(root).expanduser()
        lmdb = _import_lmdb()
        if not self.root.is_file():
            raise FileNotFoundError(f'packed images {root} do not exist; make them with '
                                    'tools/pack_dataset.py IMAGES --out FILE.lmdb')
        self._inode = self.root.stat().st_ino
        try:
            with self._reader().begin() as view:
                version, names = view.get(_FORMAT), view.get(_NAMES)
                count = view.stat()['entries'] - 2
        except lmdb.Error as error:
            raise ValueError(f'{root} is damaged or no LMDB file: {error}; make it again with '
                             'tools/pack_dataset.py') from error
        if version != _VERSION or names is None:
            raise ValueError(f'{root} holds no images packed by tools/pack_dataset.py, '
                             f'format {version!r} instead of {_VERSION!r}')
        self.names = names.decode('utf-8').split('\n')
        if count != len(self.names):
            raise ValueError(f'{root} names {len(self.names)} images and holds {count}; make it '
                             'again')

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Name that the image's file had, relative to its folder."""
        return self.names[index]

    def read(self, index: int, enough: Enough = None) -> np.ndarray:
        """As :meth:`ImageList.read`."""
        with self._reader().begin(buffers=True) as view:
            data = view.get(_key(index))
            if not data:
                raise BadImage(f'{self.root}: {self.names[index]}: could not be read when it was '
                               'packed')
            return decode_image(data, enough, f'{self.root}: {self.names[index]}')

    def fingerprint(self) -> str:
        """Digest of names, and of the file's size and time of change."""
        found = self.root.stat()
        facts = f'{found.st_size} {found.st_mtime_ns}\n' + '\n'.join(self.names)
        return hashlib.sha256(facts.encode(errors='surrogateescape')).hexdigest()

    def _reader(self) -> Any:
        return _reader(os.path.realpath(self.root), self._inode)


def image_source(path: 'str | Path', ann_file: 'Optional[str | Path]' = None) -> dict:
    """Config of the image source at a path: packed images or files.

    Args:
        path (str | Path): ``*.lmdb``, or what :class:`ImageList` takes.
        ann_file (str | Path, optional): See :class:`ImageList`.
    """
    if Path(path).suffix == PACKED_SUFFIX and not Path(path).is_dir():
        if ann_file is not None:
            raise ValueError(f'{path} has its own list of images; leave ann_file out, got '
                             f'{ann_file}')
        return dict(type='PackedImages', root=str(path))
    source = dict(type='ImageList', root=str(path))
    return source if ann_file is None else dict(source, ann_file=str(ann_file))


def open_images(path: 'str | Path',
                ann_file: 'Optional[str | Path]' = None) -> Union[ImageList, PackedImages]:
    """The image source at a path; see :func:`image_source`."""
    options = image_source(path, ann_file)
    return (PackedImages if options.pop('type') == 'PackedImages' else ImageList)(**options)


def pack_images(source: ImageList, out: 'str | Path', threads: int = 8) -> List[str]:
    """Copy image files, as they are, into one file for :class:`PackedImages`.

    An interrupted run goes on where it stopped when it is started again: until it is
    complete the file is called ``out`` + ``.part``.

    Args:
        source (ImageList): The files.
        out (str | Path): The file to write, ``*.lmdb``; replaced if it exists.
        threads (int): Files read at a time. Defaults to 8.

    Returns:
        list[str]: Names of files that could not be read; they hold their place, so
        that indices stay the same, and are bad images.

    Raises:
        ValueError: If ``out`` does not end in ``.lmdb`` or a name has a line break.
        ImportError: If lmdb is not installed.
        OSError: If the disk is full; start again with the same names once there is room.
    """
    out = Path(out)
    lmdb = _import_lmdb()
    if out.suffix != PACKED_SUFFIX:
        raise ValueError(f'packed images are called *{PACKED_SUFFIX}, got {out}')
    if any('\n' in name for name in source.names):
        raise ValueError('a name with a line break cannot be packed: '
                         f'{next(name for name in source.names if chr(10) in name)!r}')
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f'{out.name}.part')
    names = '\n'.join(source.names).encode('utf-8')
    try:
        writer = _Writer(part, hashlib.sha256(fingerprint_of(source).encode()).digest())
        try:
            failed = _copy(source, writer, threads)
            writer.put([(_NAMES, names), (_FORMAT, _VERSION)])
        finally:
            writer.close()
    except lmdb.Error as error:
        raise OSError(f'cannot write {part}: {error}; make room and start again, what is written '
                      'so far is kept') from error
    os.replace(part, out)
    return failed


class _Writer:
    """An LMDB file that grows as needed; begun again unless it is for the same files."""

    def __init__(self, path: Path, digest: bytes) -> None:
        self.path, self.lmdb = path, _import_lmdb()
        if path.exists() and not self._continue(digest):
            path.unlink()
        if not path.exists():
            self.environment = _open(path, map_size=_START)
            self.put([(_FORMAT, digest)])
        with self.environment.begin() as view:
            self.done = view.stat()['entries'] - 1

    def _continue(self, digest: bytes) -> bool:
        try:
            size = os.path.getsize(self.path)
            self.environment = _open(self.path, map_size=max(_START, 2 * size))
            with self.environment.begin() as view:
                if view.get(_FORMAT) == digest and view.get(_NAMES) is None:
                    return True
        except self.lmdb.Error:
            return False
        self.environment.close()
        return False

    def put(self, items: List[Tuple[bytes, bytes]]) -> None:
        """Write all items or none."""
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


def _copy(source: ImageList, writer: _Writer, threads: int) -> List[str]:
    if writer.done:
        print_log(f'{writer.done} of {len(source)} images are packed already', logger='current')
    failed = []
    progress = ProgressBar(len(source) - writer.done) if writer.done < len(source) else None

    def data_of(index: int) -> bytes:
        try:
            return (source.root / source.names[index]).read_bytes()
        except OSError as error:
            failed.append(f'{source.names[index]}: {error}')
            return b''

    with ThreadPoolExecutor(threads) as pool:
        for start in range(writer.done, len(source), _BLOCK):
            indices = range(start, min(start + _BLOCK, len(source)))
            writer.put(list(zip(map(_key, indices), pool.map(data_of, indices))))
            if progress is not None:
                progress.update(len(indices))
    return failed
