"""Keep images of a store on a local disk, up to a limit."""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from pathlib import Path
from typing import Optional

import numpy as np
from mmengine.logging import print_log

from cotap_mm.files.atomic_write import printable

from .index_file import ShardIndex

_STEP = 1 << 26  # bytes that a process writes between two measurements of the folder
_SUM = 4  # bytes of a checksum


class ImageCache:
    """Copies of the images that were read, shared by all processes of a machine.

    Nothing is evicted: a training visits all images in a new random order in every round, so that
    the images that stay are as good as any others, and evicting would only add downloads. Each
    shard is a sparse file in which an image has the same position as in the shard, with a file of
    checksums, so that damaged and unfinished copies are read from the store again.

    Args:
        folder (str | Path): Where to keep the copies; created.
        limit (int): Largest size of the folder in bytes; each process can exceed it by 64 MB.
        index (ShardIndex): The images.
        root (str): Their URI.
    """

    def __init__(self, folder: str | Path, limit: int, index: ShardIndex, root: str) -> None:
        key = hashlib.sha256(f'{root}\0{index.digest()}'.encode('utf-8', 'surrogateescape'))
        self.top = Path(folder).expanduser()
        self.folder = self.top / key.hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit = limit
        # Number of each image in its shard; equal types, since a large array would be converted.
        first = np.searchsorted(index.shard, np.arange(len(index.shards), dtype=index.shard.dtype))
        self._index, self._first = index, first
        self._since = min(_STEP, limit // 16)  # measured before the first copy
        self._is_full = False

    def get(self, image: int) -> Optional[bytes]:
        """Return the cached bytes of an image, or None if they are missing or damaged."""
        shard, number, start, size = self._locate(image)
        try:
            stored = _read(self._path(shard, 'sums'), number * _SUM, _SUM)
            if len(stored) < _SUM or stored == bytes(_SUM):
                return None
            data = _read(self._path(shard, 'data'), start, size)
        except OSError:
            return None
        return data if _checksum(data) == stored else None

    def put(self, image: int, data: bytes) -> None:
        """Copy an image, unless the folder is full."""
        if self._is_full:
            return
        shard, number, start, _ = self._locate(image)
        try:
            self._since += len(data)
            if self._since >= min(_STEP, self.limit // 16):
                self._since = 0
                self._is_full = folder_size(self.top) + len(data) > self.limit
                if self._is_full:
                    return
            _write(self._path(shard, 'data'), start, data)
            _write(self._path(shard, 'sums'), number * _SUM, _checksum(data))
        except OSError as error:
            self._is_full = True
            print_log(
                f'{printable(self.top)} keeps no more images ({error}); free disk space, or choose '
                'another folder with COTAP_IMAGE_CACHE',
                logger='current',
                level=logging.WARNING,
            )

    def _locate(self, image: int) -> tuple[int, int, int, int]:
        shard = int(self._index.shard[image])
        number = image - int(self._first[shard])
        return shard, number, int(self._index.start[image]), int(self._index.size[image])

    def _path(self, shard: int, suffix: str) -> str:
        return os.path.join(self.folder, f'{shard:06d}.{suffix}')


def folder_size(folder: Path) -> int:
    """Bytes that the files of a folder and its subfolders take on the disk."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_blocks * 512
            except OSError:  # removed meanwhile
                pass
    return total


def _checksum(data: bytes) -> bytes:
    return (zlib.crc32(data) or 1).to_bytes(_SUM, 'little')  # 0 marks an image that is not cached


def _read(path: str, start: int, size: int) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, size, start)
    finally:
        os.close(handle)


def _write(path: str, start: int, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.pwrite(handle, data, start)
    finally:
        os.close(handle)
