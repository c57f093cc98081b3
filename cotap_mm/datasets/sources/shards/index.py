"""Find the saved index of tar shards, or build and save it."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Callable, Optional, Union

from mmengine.logging import print_log

from cotap_mm.datasets.sources.folders.index_file import MAPPED
from cotap_mm.files.atomic_write import atomic_write, name_bytes, printable

from .build import build_index
from .index_file import ShardIndex, read_index, write_index
from .paths import COMPRESSED, INDEX_FILE, PLAN_FILE, SHARD_SUFFIX
from .stores import Facts, Folder, LocalFolder

_PIECE = 1 << 26  # bytes of an index that are copied at a time


def load_index(folder: Folder, shards: Sequence[str]) -> ShardIndex:
    """Load the index of some shards; build and save it if there is none that fits.

    Args:
        folder (LocalFolder | RemoteFolder): Where they are.
        shards (sequence[str]): Their names; all ``*.tar`` files of the folder if empty.

    Returns:
        ShardIndex: The index.

    Raises:
        FileNotFoundError: If the folder has no shards, a given shard is missing, or the shards
            contain no images.
        ValueError: If a shard is damaged or compressed, a packing is unfinished, or a name exists
            twice in a shard.
        OSError: If the folder cannot be read, or the disk is too full for a large index.
            Stores raise errors of other types.
    """
    files = folder.files()
    chosen = _choose(folder, files, shards)
    kept = _kept_at(folder)
    for saved in _saved(folder, files, kept):
        try:
            index = read_index(saved)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, struct.error):
            continue  # damaged; built again
        if index.fits(files, chosen):
            return index
    places = [Path(folder.root, INDEX_FILE)] if isinstance(folder, LocalFolder) else []
    places += [kept] if kept else []
    return _keep(_build(folder, files, chosen, places), folder, places)


def _saved(
    folder: Folder, files: Mapping[str, Facts], kept: Optional[Path]
) -> Iterator[Union[bytes, Path]]:
    """Contents of the saved indexes, that beside the shards first; large ones as paths, to map.

    A large one of a store is copied to the user's cache once, and used there.
    """
    beside = files.get(INDEX_FILE)
    is_large = beside is not None and beside.size >= MAPPED
    if beside is not None and is_large and isinstance(folder, LocalFolder):
        yield Path(folder.root, INDEX_FILE)
    elif beside is not None and not is_large:
        yield folder.read(INDEX_FILE, 0, beside.size)
    if kept is not None and kept.is_file():
        yield kept if kept.stat().st_size >= MAPPED else kept.read_bytes()
    if beside is not None and is_large and not isinstance(folder, LocalFolder):
        size = beside.size
        if kept is not None and _write(kept, lambda file: _copy(folder, size, file)):
            yield kept
        else:
            yield folder.read(INDEX_FILE, 0, size)


def _choose(folder: Folder, files: Mapping[str, Facts], shards: Sequence[str]) -> list[str]:
    """Names of the shards to read, which must exist."""
    root = printable(folder.root)
    if PLAN_FILE in files and INDEX_FILE not in files:
        raise ValueError(
            f'{root} is an unfinished cotap pack; run the same cotap pack command again, which '
            'continues it'
        )
    compressed = [name for name in shards or files if name.lower().endswith(COMPRESSED)]
    chosen = list(shards) or sorted(
        name for name in files if name.lower().endswith(SHARD_SUFFIX) and not name.startswith('.')
    )
    if compressed and (shards or not chosen):
        raise ValueError(
            f'{printable(folder.title(compressed[0]))} is compressed, and images are read from '
            'uncompressed *.tar only; decompress it, e.g. with gunzip or zstd -d'
        )
    if not chosen:
        raise FileNotFoundError(
            f'{root} contains no *.tar; give a folder of shards of images, as written by cotap '
            'pack or in WebDataset format'
        )
    missing = [name for name in chosen if name not in files]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(chosen)} shards do not exist in {root}, the first is '
            f'{printable(missing[0])}; correct the pattern, or copy them'
        )
    return chosen


def _kept_at(folder: Folder) -> Optional[Path]:
    """File in the user's cache for the index of a folder that cannot be written to."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join('~', '.cache')
    root = folder.root
    key = hashlib.sha256(
        name_bytes(os.path.realpath(root) if isinstance(folder, LocalFolder) else root)
    )
    try:
        return Path(home).expanduser() / 'cotap_mm' / 'shards' / f'{key.hexdigest()[:32]}.npz'
    except RuntimeError:  # no home directory
        return None


def _build(
    folder: Folder, files: Mapping[str, Facts], shards: Sequence[str], places: Sequence[Path]
) -> ShardIndex:
    """Build an index where it will be kept, or else with the folder of temporary files."""
    for path in filter(_is_writable, places):
        try:
            return build_index(folder, files, shards, spool_in=path.parent)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
    return build_index(folder, files, shards)


def _is_writable(path: Path) -> bool:
    """Whether files can be created in the folder of a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path.parent, os.W_OK)


def _keep(index: ShardIndex, folder: Folder, places: Sequence[Path]) -> ShardIndex:
    """Save an index beside its shards, or in the user's cache, and use it as the next run will."""
    for path in places:
        if _write(path, lambda file: write_index(file, index)):
            return read_index(path if path.stat().st_size >= MAPPED else path.read_bytes())
    print_log(
        f'the index of {printable(folder.root)} cannot be saved, so it is built in every run; set '
        'XDG_CACHE_HOME to a folder that can be written to',
        logger='current',
        level=logging.WARNING,
    )
    return index


def _copy(folder: Folder, size: int, file: BinaryIO) -> None:
    """Copy the index of a store, piece by piece."""
    for start in range(0, size, _PIECE):
        file.write(folder.read(INDEX_FILE, start, min(_PIECE, size - start)))


def _write(path: Path, write: Callable[[BinaryIO], None]) -> bool:
    """Write a file atomically; returns whether that was possible."""
    try:
        with atomic_write(path) as part, open(part, 'wb') as file:
            write(file)
    except OSError:
        return False
    return True
