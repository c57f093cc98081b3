"""Write image files into tar shards, several at a time; an interrupted run is continued."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import NamedTuple, Union

from mmengine.logging import print_log

from cotap_mm.files.atomic_write import UNFINISHED, atomic_write, printable
from cotap_mm.files.locks import acquire_lock
from cotap_mm.progress import Progress

from ..decoding import BadImage, read_image_bytes
from ..files import ImageList
from ..fingerprints import fingerprint_of
from ..names import paths_of
from .build import build_index
from .headers import read_headers
from .index_file import write_index
from .paths import INDEX_FILE, PLAN_FILE
from .spool import positions
from .stores import LocalFolder

SHARD_BYTES = 256 * 10**6
_FORMAT = 'cotap_mm packed shards 1'


class Plan(NamedTuple):
    """What is packed where.

    Attributes:
        digest (str): Of the images and the size of the shards.
        firsts (list[int]): Index of the first image of each shard, and the number of images.
    """

    digest: str
    firsts: list[int]

    def name(self, shard: int) -> str:
        """File name of a shard."""
        return f'shard-{shard:06d}.tar'

    def text(self) -> str:
        """Content of the plan's file."""
        plan = dict(format=_FORMAT, digest=self.digest, shards=len(self.firsts) - 1)
        return json.dumps(plan, indent=1) + '\n'


def pack_shards(
    source: ImageList,
    out: Union[str, Path],
    shard_bytes: int = SHARD_BYTES,
    threads: int = 8,
    overwrite: bool = False,
) -> list[str]:
    """Copy image files, unchanged, into tar shards for :class:`ShardedImages`.

    The shards are plain tar files (WebDataset format): ``shard-000000.tar`` and so on, with the
    names of the images. Their bytes depend on the images and ``shard_bytes`` alone. An
    interrupted run continues at the first shard that is missing when it is started again;
    ``cotap_index.npz``, written last, marks a complete folder.

    Args:
        source (ImageList): The files.
        out (str | Path): Folder to write; created.
        shard_bytes (int): A shard ends before the image that would make it larger. Defaults to
            256 MB.
        threads (int): Number of shards written in parallel. Defaults to 8.
        overwrite (bool): Whether to replace shards of other images. Defaults to False.

    Returns:
        list[str]: Names of files that could not be read. They keep their index, and count as bad
        images.

    Raises:
        ValueError: If the folder has other files or shards of other images, or a name does not
            fit into a tar file.
        Locked: If another process is writing to the folder.
        OSError: If the disk is full; start again after freeing space.
    """
    out = Path(os.path.abspath(os.path.expanduser(out)))
    if shard_bytes < 1:
        raise ValueError(f'shard_bytes must be positive, got {shard_bytes}')
    out.mkdir(parents=True, exist_ok=True)
    lock = acquire_lock(
        out.with_name(f'{out.name}.lock'),
        f'packing {printable(out.name)}',
        'wait for it, or write another folder',
    )
    try:
        plan = make_plan(source, shard_bytes)
        _prepare(out, plan, overwrite)
        failed = _write_all(source, out, plan, threads)
        return _finish(source, out, plan, failed)
    finally:
        lock.release()


def make_plan(source: ImageList, shard_bytes: int) -> Plan:
    """Divide images among shards by the sizes of their files.

    Args:
        source (ImageList): The files.
        shard_bytes (int): Largest size of a shard of several images.
    """
    key = f'{_FORMAT} {shard_bytes} {fingerprint_of(source)}'
    firsts, used = [0], 0
    for index, size in enumerate(_sizes(source)):
        needed = tarfile.BLOCKSIZE + _padded(size)
        if used and used + needed > shard_bytes:
            firsts.append(index)
            used = 0
        used += needed
    return Plan(hashlib.sha256(key.encode()).hexdigest(), [*firsts, len(source)])


def _sizes(source: ImageList) -> Iterator[int]:
    """Sizes of all files in bytes."""
    root = str(source.root)
    with ThreadPoolExecutor(8) as pool:  # a network disk serves several requests at a time
        for block in source.names.encoded_blocks():
            yield from pool.map(_size_of, paths_of(root, block))


def _size_of(path: Union[str, bytes]) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # reported when it is read
        return 0


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _prepare(out: Path, plan: Plan, overwrite: bool) -> None:
    """Continue or start a folder; refuse one of other images or with other files."""
    present = sorted(each.name for each in out.iterdir() if not each.name.startswith(UNFINISHED))
    if PLAN_FILE in present:
        try:
            content = json.loads((out / PLAN_FILE).read_text(encoding='utf-8'))
            is_same = content['format'] == _FORMAT and content['digest'] == plan.digest
        except (ValueError, KeyError, TypeError):
            is_same = False
        if is_same:
            return
        if not overwrite:
            raise ValueError(
                f'{printable(out)} has shards of other images, or of another --shard-size; choose '
                'another folder, or pass --overwrite to replace them'
            )
    elif present and not overwrite:
        raise ValueError(
            f'{printable(out)} must be empty or a folder of cotap pack, but has '
            f'{printable(present[0])}; choose another folder, or pass --overwrite to '
            'replace its shard-*.tar'
        )
    (out / INDEX_FILE).unlink(missing_ok=True)  # first: without it, the folder is not complete
    for path in out.glob('shard-*.tar'):
        path.unlink()
    with atomic_write(out / PLAN_FILE) as part:
        part.write_text(plan.text(), encoding='utf-8')


def _write_all(source: ImageList, out: Path, plan: Plan, threads: int) -> dict[int, str]:
    """Write the shards that are missing; returns which images could not be read, and why."""
    ranges = [range(*plan.firsts[shard : shard + 2]) for shard in range(len(plan.firsts) - 1)]
    todo = [
        shard
        for shard, images in enumerate(ranges)
        if not _is_complete(source, out / plan.name(shard), images)
    ]
    if len(todo) < len(ranges):
        print_log(
            f'{len(ranges) - len(todo)} of {len(ranges)} shards are already packed',
            logger='current',
        )
    packed = len(source) - sum(len(ranges[shard]) for shard in todo)
    failed: dict[int, str] = {}
    stop = Event()

    def write(shard: int) -> int:
        failed.update(_write(source, out / plan.name(shard), ranges[shard], stop))
        return len(ranges[shard])

    with (
        ThreadPoolExecutor(threads) as pool,
        Progress(len(source), 'packed images', packed) as progress,
    ):
        try:
            for count in pool.map(write, todo):
                progress.update(count)
        except BaseException:
            stop.set()  # the pool waits for its threads
            raise
    return failed


def _is_complete(source: ImageList, path: Path, images: range) -> bool:
    """Whether a shard has the images of its range."""
    try:
        with open(path, 'rb') as file:
            found = read_headers(file, str(path), is_packed=True)
    except (OSError, ValueError):
        return False
    return found.names == [source.names[index] for index in images]


def _write(source: ImageList, path: Path, images: range, stop: Event) -> dict[int, str]:
    """Write a shard, unless another one has failed."""
    failed = {}
    with (
        atomic_write(path) as part,
        tarfile.open(part, 'w', format=tarfile.GNU_FORMAT, errors='surrogateescape') as archive,
    ):
        for index in images:
            if stop.is_set():
                raise CancelledError
            name = source.names[index]
            try:
                data = read_image_bytes(source.root / name)
            except BadImage as error:
                failed[index] = f'{printable(name)}: {error}'
                data = b''
            member = tarfile.TarInfo(name)  # no times and no owners: equal in every run
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            archive.members.clear()
    return failed


def _finish(source: ImageList, out: Path, plan: Plan, failed: dict[int, str]) -> list[str]:
    """Write the index, which completes the folder; returns what could not be read."""
    folder = LocalFolder(str(out))
    shards = [plan.name(shard) for shard in range(len(plan.firsts) - 1)]
    index = build_index(folder, folder.files(), shards, is_packed=True, spool_in=out)
    if index.names != source.names:
        raise RuntimeError(f'{out} does not have the images that were packed; this is a bug')
    with atomic_write(out / INDEX_FILE) as part, open(part, 'wb') as file:
        write_index(file, index)
    earlier = 'is empty, or could not be read when its shard was written'
    return [
        failed.get(each, f'{printable(source.names[each])}: {earlier}')
        for each in positions(index.size, 0)
    ]
