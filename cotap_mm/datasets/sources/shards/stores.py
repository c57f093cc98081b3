"""Folders of shards: on a disk, or in an object store through fsspec."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional, Union

from cotap_mm.files.atomic_write import open_regular, printable

#: Protocol of a URI -> the package that fsspec needs for it.
PACKAGES = {
    's3': 's3fs',
    's3a': 's3fs',
    'gs': 'gcsfs',
    'gcs': 'gcsfs',
    'az': 'adlfs',
    'abfs': 'adlfs',
    'http': 'aiohttp',
    'https': 'aiohttp',
}
_KEPT_OPEN = 256  # shards
_READ_AHEAD = 1 << 16  # bytes, while headers are read


class Facts(NamedTuple):
    """What identifies a version of a file: its size in bytes, and its time or hash."""

    size: int
    version: str


class LocalFolder:
    """Shards in a folder of a disk, read by ``pread``.

    Args:
        root (str): The folder.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.expanduser(root)
        self._handles: dict[str, int] = {}
        self._lock = threading.Lock()

    def files(self) -> dict[str, Facts]:
        """Names of the files, and what identifies their versions.

        Raises:
            OSError: If the folder cannot be listed.
        """
        found = {}
        with os.scandir(self.root) as entries:
            for entry in entries:
                if entry.is_file():
                    status = entry.stat()
                    found[entry.name] = Facts(status.st_size, str(status.st_mtime_ns))
        return found

    def title(self, name: str) -> str:
        """Path of a file, for messages."""
        return os.path.join(self.root, name)

    def open(self, name: str) -> BinaryIO:
        """Open a file."""
        return open_regular(Path(self.root, name))

    def read(self, name: str, start: int, size: int) -> bytes:
        """Read a part of a file; fewer bytes at its end.

        Raises:
            OSError: If it cannot be read.
        """
        handle = self._handles.get(name)
        if handle is None:
            with self._lock:
                handle = self._handles.get(name)
                if handle is None and len(self._handles) < _KEPT_OPEN:
                    handle = self._handles[name] = os.open(self.title(name), os.O_RDONLY)
        if handle is None:
            with open(self.title(name), 'rb') as file:
                return _pread(file.fileno(), start, size)
        try:
            return _pread(handle, start, size)
        except OSError:
            with self._lock:  # a handle stays stale after its network disk was gone
                self._handles.pop(name, None)
            raise

    def is_reachable(self, name: str) -> bool:
        """Whether a file exists; False if a network disk is gone."""
        return os.path.exists(self.title(name))

    def __getstate__(self) -> dict[str, Any]:
        return dict(root=self.root)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _pread(handle: int, start: int, size: int) -> bytes:
    data = os.pread(handle, size, start)
    while len(data) < size:  # Linux returns at most 2 GiB at a time
        more = os.pread(handle, size - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


class RemoteFolder:
    """Shards in an object store, read by range requests.

    Every process has connections of its own, since those of fsspec do not survive a fork.

    Args:
        root (str): URI of the folder.
        options (dict, optional): Options of fsspec's file system. Defaults to None.
    """

    def __init__(self, root: str, options: Optional[dict[str, Any]] = None) -> None:
        self.root, self.options = root.rstrip('/'), dict(options or {})
        self._system: Any = None
        self._process = -1
        self._lock = threading.Lock()

    def files(self) -> dict[str, Facts]:
        """Names of the files, and what identifies their versions.

        Raises:
            FileNotFoundError: If the folder does not exist; stores know no empty folders.
            Exception: Of the library of the store, see :func:`explain`.
        """
        found = {}
        system, path = self._connect()
        system.invalidate_cache()
        entries = [each for each in system.ls(path, detail=True) if _is_in(each['name'], path)]
        if not entries:  # of a folder that does not exist, some libraries list nothing
            raise FileNotFoundError(path)
        for each in entries:
            if each['type'] == 'file':
                version = each.get('ETag') or each.get('etag') or each.get('LastModified') or ''
                found[each['name'].rpartition('/')[2]] = Facts(int(each['size']), str(version))
        return found

    def title(self, name: str) -> str:
        """URI of a file, for messages."""
        return f'{self.root}/{name}'

    def open(self, name: str) -> BinaryIO:
        """Open a file; little is read beyond what is asked for."""
        system, path = self._connect()
        return system.open(f'{path}/{name}', 'rb', block_size=_READ_AHEAD, cache_type='readahead')

    def read(self, name: str, start: int, size: int) -> bytes:
        """Read a part of a file by one request; fewer bytes at its end.

        Raises:
            Exception: Of the library of the store, see :func:`explain`.
        """
        system, path = self._connect()
        return bytes(system.cat_file(f'{path}/{name}', start=start, end=start + size))

    def is_reachable(self, name: str) -> bool:
        """Whether the store answers a request for the last byte of a file or the like."""
        try:
            return len(self.read(name, 0, 1)) == 1
        except Exception:  # each library has errors of its own
            return False

    def _connect(self) -> tuple[Any, str]:
        with self._lock:
            if self._system is None or self._process != os.getpid():
                import fsspec  # type: ignore[import-untyped]

                self._system, self._path = fsspec.core.url_to_fs(
                    self.root, skip_instance_cache=True, **self.options
                )
                self._process = os.getpid()
            return self._system, self._path

    def __getstate__(self) -> dict[str, Any]:
        return dict(root=self.root, options=self.options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _is_in(name: str, folder: str) -> bool:
    """Whether a listed path lies in a folder, whatever its protocol and bucket look like."""
    parents = name.rstrip('/').rpartition('/')[0]
    return parents.rpartition('/')[2] == folder.rstrip('/').rpartition('/')[2]


Folder = Union[LocalFolder, RemoteFolder]


def explain(error: Exception, root: str) -> Exception:
    """Convert the error of a store into one that says what to do.

    Args:
        error (Exception): Of fsspec or of the library of the store.
        root (str): URI of the folder.

    Returns:
        Exception: ImportError, FileNotFoundError, PermissionError, ValueError or ConnectionError.
    """
    protocol, root = root.split('://')[0], printable(root)
    why = ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
    package = PACKAGES.get(protocol, 'a file system of fsspec')
    if isinstance(error, ImportError):
        return ImportError(
            f'reading {root} requires {package}, which is not installed: pip install {package}'
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(
            f'{root} does not exist ({why}); check the names of bucket and folder'
        )
    if isinstance(error, PermissionError) or 'Credentials' in why:
        return PermissionError(
            f'{root} refuses access ({why}); set the credentials of the store, e.g. AWS_PROFILE, '
            'or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or for a public bucket '
            'storage_options=dict(anon=True)'
        )
    if isinstance(error, ValueError) and 'rotocol' in why:
        return ValueError(
            f'a URI of images must start with file://, s3://, gs:// or another protocol of '
            f'fsspec, got {root} ({why})'
        )
    return ConnectionError(
        f'{root} cannot be reached ({why}); check the network, and the address of a store that is '
        'not at Amazon: AWS_ENDPOINT_URL'
    )
