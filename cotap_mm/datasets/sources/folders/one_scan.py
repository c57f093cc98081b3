"""Only one process of a machine lists a large folder; the others wait, and read its index."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Union

from mmengine.logging import print_log

from cotap_mm.files.atomic_write import printable
from cotap_mm.files.locks import Locked, acquire_lock, locked

from . import index_file
from .index_file import Index, lock_path, read_index, write_index
from .scan import Scan, scan_folder


class _ListedElsewhere(Exception):
    """Another process lists the folder now, or has just listed it."""


def index_or_scan(root: Path) -> Union[Index, Scan]:
    """Read the index of a folder; without one, list the folder and keep its index.

    Each process starts to list the folder and tries to take a lock once it has found many images.
    The one that gets it finishes the list; the others on the machine wait for it, and list the
    folder themselves only if there is still no index: because that process failed or was killed,
    or because the index could not be saved.

    Args:
        root (Path): The folder.

    Returns:
        Index | Scan: What the folder contains.
    """
    index = read_index(root)
    if index is not None:
        return index
    path, purpose = lock_path(root), f'listing {printable(root)}'
    with ExitStack() as held:

        def take_turn() -> None:
            try:
                held.callback(acquire_lock(path, purpose, 'wait for its end').release)
            except Locked as error:
                raise _ListedElsewhere from error
            except OSError as error:  # no place for a lock: each process lists the folder
                print_log(f'{path}: {error}', logger='current', level=logging.DEBUG)
                return
            if read_index(root) is not None:
                raise _ListedElsewhere

        if path is not None:
            try:
                found = scan_folder(root, index_file.MIN_IMAGES, take_turn)
                return _kept(root, found, is_writer=True)
            except _ListedElsewhere:
                with locked(path, purpose):
                    pass
                index = read_index(root)
    return _kept(root, scan_folder(root)) if index is None else index


def _kept(root: Path, found: Scan, is_writer: bool = False) -> Scan:
    """Write the index, and use the names in it, which processes share."""
    return found._replace(names=write_index(root, found, is_writer=is_writer) or found.names)
