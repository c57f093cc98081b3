"""Images in tar shards, on a disk or in an object store, as an image source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional, Union

from cotap_mm.files.atomic_write import printable
from cotap_mm.registry import DATASETS
from cotap_mm.rules import check_arguments, number, or_one_of

from ..decoding import MAX_IMAGE_BYTES, BadImage, UnreachableImage
from ..files import EncodedImages
from ..fingerprints import range_key
from ..value_range import Option
from .cache import ImageCache
from .index import load_index
from .index_file import ShardIndex
from .paths import is_uri, split_shards
from .stores import Folder, LocalFolder, RemoteFolder, explain

_GB = 10**9


@DATASETS.register_module()
class ShardedImages(EncodedImages):
    """Images in uncompressed tar shards, which are not unpacked.

    Each image is read at its position: on a disk by ``pread``, in an object store by one range
    request, so that any order of images costs the same. Where each image is, is read from the
    headers of the shards once, and kept in ``cotap_index.npz`` beside them, or in the user's
    cache. Images are in the order of the shards' names and of each shard.

    Args:
        root (str | Path): Folder with ``*.tar`` files, one such file, or a pattern such as
            ``a-{000..099}.tar``; or the URI of one of these, such as ``s3://bucket/folder``.
        value_range (str | tuple, optional): See :class:`ImageList`. Defaults to ``'auto'``.
        cache_dir (str, optional): Folder on a local disk where images of a store are kept after
            they were read. Defaults to the environment variable ``COTAP_IMAGE_CACHE``; without
            it, images are read from the store each time.
        cache_gb (float, optional): Largest size of ``cache_dir`` in GB. Defaults to
            ``COTAP_IMAGE_CACHE_GB``, or 100.
        storage_options (dict, optional): Options of fsspec's file system, such as
            ``dict(anon=True)``. Defaults to None: credentials and addresses are those of the
            environment, which other processes do not see in the config.

    Raises:
        FileNotFoundError: If the folder has no shards, or a given shard is missing.
        ValueError: If a shard is damaged or compressed.
        ImportError: If the library for the store is not installed.
        ConnectionError: If the store cannot be reached.
        PermissionError: If the store refuses access.
    """

    @check_arguments(cache_gb=or_one_of(number(0, above=True), None))
    def __init__(
        self,
        root: Union[str, Path],
        value_range: Option = 'auto',
        cache_dir: Optional[str] = None,
        cache_gb: Optional[float] = None,
        storage_options: Optional[dict[str, Any]] = None,
    ) -> None:
        self.root = str(root)
        where, shards = split_shards(self.root)
        is_remote = is_uri(where)
        self._folder: Folder = (
            RemoteFolder(where, storage_options) if is_remote else LocalFolder(where)
        )
        if not is_remote and not os.path.isdir(self._folder.root):
            raise FileNotFoundError(
                f'folder of shards {printable(where)} does not exist; give an existing one, '
                'e.g. with --images DIR'
            )
        self._index = self._load(shards)
        super().__init__(self._index.names, value_range)
        cache_dir = cache_dir or os.environ.get('COTAP_IMAGE_CACHE')
        limit = float(os.environ.get('COTAP_IMAGE_CACHE_GB', 100)) if cache_gb is None else cache_gb
        self._cache = (
            ImageCache(cache_dir, int(limit * _GB), self._index, self.root)
            if cache_dir and is_remote
            else None
        )

    def _load(self, shards: list[str]) -> ShardIndex:
        try:
            return load_index(self._folder, shards)
        except Exception as error:  # each library has errors of its own
            if isinstance(self._folder, LocalFolder) or self._folder.root in str(error):
                raise
            raise explain(error, self._folder.root) from error

    def encoded(self, index: int) -> bytes:
        """Content of an image's file; raises :class:`BadImage` if it cannot be read."""
        size = int(self._index.size[index])
        if size == 0:
            raise BadImage(
                f'{printable(self.title(index))}: is empty, or could not be read when it was packed'
            )
        if size > MAX_IMAGE_BYTES:
            raise BadImage(
                f'{printable(self.title(index))} has {size:,} bytes, more than the limit of '
                f'{MAX_IMAGE_BYTES:,}'
            )
        data = self._cache.get(index) if self._cache is not None else None
        if data is None:
            data = self._read(index, size)
            if self._cache is not None:
                self._cache.put(index, data)
        return data

    def _read(self, index: int, size: int) -> bytes:
        name = self._index.shards[self._index.shard[index]]
        try:
            data = self._folder.read(name, int(self._index.start[index]), size)
        except Exception as error:  # each library has errors of its own
            raise UnreachableImage(
                f'{printable(self.title(index))}: {type(error).__name__}: {error}'
            ) from error
        if len(data) < size:
            raise BadImage(
                f'{printable(self.title(index))}: the shard was truncated or replaced after it '
                'was opened; start again'
            )
        return data

    def title(self, index: int) -> str:
        """Path of the shard and name of the image, for messages."""
        shard = self._index.shards[self._index.shard[index]]
        return f'{self._folder.title(shard)}: {self.names[index]}'

    def fingerprint(self) -> str:
        """Digest of the names, and of the shards' sizes and versions."""
        facts = range_key(self.found_range()) + self._index.digest().encode()
        return self.names.digest(before=facts)

    def is_reachable(self) -> bool:
        """Whether the first or the last shard can be read; False if disk or store are gone."""
        ends = {self._index.shards[0], self._index.shards[-1]}
        return any(self._folder.is_reachable(name) for name in sorted(ends))
