"""List the images of a folder and its subfolders."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from cotap_mm.datasets.sources.formats import IMAGE_SUFFIXES, suffix_of
from cotap_mm.datasets.sources.names import Names, paths_of
from cotap_mm.files.atomic_write import name_bytes
from cotap_mm.progress import Progress

_QUIET = 3.0  # seconds until the progress is shown
_STATUS_BLOCK = 256  # folders whose status one thread reads


class Scan(NamedTuple):
    """What a folder contained.

    Attributes:
        names (Names): Images relative to the folder, with forward slashes, sorted.
        folders (Names): All folders below it and itself, as prefixes of names.
        stamps (np.ndarray): State of each of these before it was listed, see :func:`stamps_of`.
        skipped (Counter): Suffix -> number of other files, without hidden ones.
        unlisted (list[OSError]): Folders that could not be listed.
        is_repeatable (bool): Whether unchanged stamps mean that another scan finds the same.
        began (float): Time at which the scan began, in seconds since 1970.
        links (Names): Links to a folder that is read already, such as to their own parent, which
            are not followed.
    """

    names: Names
    folders: Names
    stamps: np.ndarray
    skipped: Counter
    unlisted: list[OSError]
    is_repeatable: bool
    began: float
    links: Names = Names()


def scan_folder(root: Path, large: int = 0, on_large: Callable[[], None] = lambda: None) -> Scan:
    """List all images in a folder and its subfolders, following links, without hidden files.

    Memory: twice the bytes of all names, and the list of one folder at a time.

    Args:
        root (Path): The folder.
        large (int): Number of images of a large folder. Defaults to 0.
        on_large (callable): Called when so many have been found; it may end the scan by an
            exception. Defaults to nothing.
    """
    began = time.time()
    lister = _Lister(large, on_large)
    contents: dict[bytes, bytes] = {}  # prefix -> names and, with a slash, subfolders; sorted
    folders, links, stamps, seen = [], [], [], set()
    waiting = [(str(root), '')]
    try:
        while waiting:
            folder, prefix = waiting.pop()
            folders.append(prefix)
            stamps.append(_stamp(folder))
            real = os.path.realpath(folder)
            if real in seen:  # a link to a parent folder would loop forever
                if os.path.islink(folder):
                    links.append(prefix[:-1])
                continue
            seen.add(real)
            files, subfolders = lister.list_folder(folder)
            # The same one of several links to a folder is first on every machine.
            subfolders.sort(reverse=True)
            waiting += [(os.path.join(folder, name), f'{prefix}{name}/') for name in subfolders]
            entries = sorted([*files, *(f'{name}/' for name in subfolders)])
            contents[name_bytes(prefix)] = name_bytes('\0'.join(entries))
    finally:
        lister.close()
    data = _join(contents)
    return Scan(
        Names.from_joined(data) if data else Names(),
        Names(folders),
        np.array(stamps, np.int64).reshape(-1, 3),
        lister.skipped,
        lister.unlisted,
        lister.is_repeatable and not lister.unlisted,
        began,
        Names(links),
    )


def stamps_of(root: Path, folders: Names) -> np.ndarray:
    """State of folders, which changes if a file or folder in them is added, removed or renamed.

    Args:
        root (Path): The folder.
        folders (Names): Folders relative to it.

    Returns:
        np.ndarray: Times of modification and change in nanoseconds and inode, shape (F, 3),
        int64; -1 for a folder that does not exist.
    """

    def stamps_of_block(names: list[bytes]) -> list[tuple[int, int, int]]:
        return list(map(_stamp, paths_of(str(root), names)))

    blocks = folders.encoded_blocks(_STATUS_BLOCK)
    if len(folders) <= _STATUS_BLOCK:
        found = list(map(stamps_of_block, blocks))
    else:
        with ThreadPoolExecutor(8) as pool:  # a network disk serves several requests at a time
            found = list(pool.map(stamps_of_block, blocks))
    return np.array([stamp for block in found for stamp in block], np.int64).reshape(-1, 3)


def _stamp(folder: str | bytes) -> tuple[int, int, int]:
    try:
        status = os.stat(folder)
    except (OSError, ValueError):
        return (-1, -1, -1)
    return stamp_of(status)


def stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    """State of a folder or file, see :func:`stamps_of`.

    Args:
        status (os.stat_result): Its status.
    """
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino & (2**63 - 1))


class _Lister:
    """Lists single folders, counts what is skipped, and shows the progress of a long scan."""

    def __init__(self, large: int, on_large: Callable[[], None]) -> None:
        self._left, self._on_large = large, on_large  # images until the folder is large
        self.skipped: Counter = Counter()
        self.unlisted: list[OSError] = []
        self.is_repeatable = True
        self._start = time.monotonic()
        self._progress: Optional[Progress] = None

    def list_folder(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the images and of the subfolders of a folder."""
        files: list[str] = []
        subfolders: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    try:
                        is_folder = entry.is_dir()
                    except OSError:
                        is_folder = False
                    if is_folder:
                        subfolders.append(name)
                    elif name[0] == '.':
                        pass
                    elif name.lower().endswith(IMAGE_SUFFIXES):
                        files.append(name)
                        if len(files) == self._left:
                            self._on_large()
                    else:
                        self._skip(entry)
        except OSError as error:
            error.filename = error.filename or folder
            self.unlisted.append(error)
        self._left -= len(files)
        self._show(len(files))
        return files, subfolders

    def _skip(self, entry: os.DirEntry) -> None:
        self.skipped[suffix_of(entry.name)] += 1
        if entry.is_symlink() and not os.path.exists(entry.path):
            self.is_repeatable = False  # it may be a folder of a disk that is not mounted now

    def _show(self, count: int) -> None:
        if self._progress is None and time.monotonic() - self._start > _QUIET:
            self._progress = Progress(None, 'listing images')
        if self._progress is not None:
            self._progress.update(count)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.close()


def _join(contents: dict[bytes, bytes]) -> bytes | bytearray:
    """Join the names of all folders, each with its prefix, in the order of the whole names."""
    first = contents.pop(b'')
    if b'/' not in first:
        return first
    joined = bytearray()
    waiting = [(b'', iter(first.split(b'\0')))]
    while waiting:
        prefix, entries = waiting[-1]
        for entry in entries:
            if not entry.endswith(b'/'):
                joined += prefix + entry + b'\0'
                continue
            inner = prefix + entry
            names = contents.pop(inner, b'')
            if b'/' in names:
                waiting.append((inner, iter(names.split(b'\0'))))
                break
            if names:
                joined += inner + names.replace(b'\0', b'\0' + inner) + b'\0'
        else:
            waiting.pop()
    return joined[:-1]
