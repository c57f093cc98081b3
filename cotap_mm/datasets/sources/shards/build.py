"""Build the index of tar shards from their headers, with memory that does not grow with it."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np
from mmengine.logging import print_log

from cotap_mm.datasets.sources.names import Names
from cotap_mm.files.atomic_write import printable
from cotap_mm.progress import track

from .headers import read_headers
from .index_file import PACKED, ShardIndex
from .spool import NamesSpool, Spool, has_repeats
from .stores import Facts, Folder

_THREADS = 16
_AHEAD = 32  # shards whose headers wait for their turn


class _Headers(NamedTuple):
    """What the index needs of a shard, without an object per image."""

    names: Names
    hashes: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    unusable: int


def build_index(
    folder: Folder,
    files: Mapping[str, Facts],
    shards: Sequence[str],
    is_packed: bool = False,
    spool_in: Optional[Path] = None,
) -> ShardIndex:
    """Read the headers of all shards.

    Args:
        folder (LocalFolder | RemoteFolder): Where they are.
        files (Mapping): Size and version of each.
        shards (sequence[str]): Their names.
        is_packed (bool): Whether the index is written with the shards, and goes where they are
            copied: it then does not depend on their times. Defaults to False.
        spool_in (Path, optional): Folder on the disk that holds the index while it grows, in
            anonymous files. Defaults to None, that of temporary files.

    Returns:
        ShardIndex: The index, whose arrays are memory-mapped.

    Raises:
        FileNotFoundError: If the shards contain no images.
        ValueError: If a shard is damaged, compressed, or has a name twice.
        OSError: If a shard cannot be read, or the disk is full.
    """

    def headers_of(name: str) -> _Headers:
        return _read(folder, name, is_packed)

    names, hashes = NamesSpool(spool_in), Spool(np.int64, spool_in)
    shard, start, size = (Spool(kind, spool_in) for kind in (np.int32, np.int64, np.int64))
    counts, unusable = [], 0
    with ThreadPoolExecutor(_THREADS) as pool:
        found = _in_order(pool, headers_of, shards)
        for number, each in enumerate(track(found, len(shards), 'headers of shards')):
            names.append(each.names)
            hashes.append(each.hashes)
            shard.append(np.full(len(each.names), number, np.int32))
            start.append(each.starts)
            size.append(each.sizes)
            counts.append(len(each.names))
            unusable += each.unusable
    if unusable:
        print_log(
            f'{printable(folder.root)}: skipped {unusable} images that are links or sparse files '
            'in their shard',
            logger='current',
            level=logging.WARNING,
        )
    if not sum(counts):
        raise FileNotFoundError(
            f'the {len(shards)} shards in {printable(folder.root)} contain no images'
        )
    facts = [files[name] for name in shards]
    return ShardIndex(
        list(shards),
        [each._replace(version=PACKED) for each in facts] if is_packed else facts,
        _unique(names.names(), hashes.array(), shards, counts, spool_in),
        shard.array(),
        start.array(),
        size.array(),
    )


def _read(folder: Folder, shard: str, is_packed: bool) -> _Headers:
    with folder.open(shard) as file:
        members = read_headers(file, folder.title(shard), is_packed)
    if len(set(members.names)) < len(members.names):
        twice = Counter(members.names).most_common(1)[0][0]
        raise ValueError(
            f'{printable(folder.title(shard))} contains {printable(twice)} twice, and an '
            'image must not be its own neighbor; write the shard again without one of them'
        )
    return _Headers(
        Names(members.names),
        np.fromiter(map(hash, members.names), np.int64, len(members.names)),
        np.array(members.starts, np.int64),
        np.array(members.sizes, np.int64),
        members.unusable,
    )


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[str], _Headers], items: Sequence[str]
) -> Iterator[_Headers]:
    """Work on items in parallel; unlike ``pool.map``, few results wait at a time."""
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for each in waiting:
            each.cancel()


def _unique(
    names: Names,
    hashes: np.ndarray,
    shards: Sequence[str],
    counts: Sequence[int],
    spool_in: Optional[Path],
) -> Names:
    """Names of all images; with the name of the shard if several shards have the same ones."""
    if not has_repeats(hashes, names):
        return names
    longer, first = NamesSpool(spool_in), 0
    for shard, count in zip(shards, counts):
        longer.append(Names(f'{shard}/{name}' for name in names[first : first + count]))
        first += count
    return longer.names()
