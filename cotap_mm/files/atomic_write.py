"""Write files atomically, read regular files only, and encode file names."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Optional

from .temporary import UNFINISHED, partial_path, remove_unfinished

__all__ = [
    'UNFINISHED',
    'UnusableFile',
    'atomic_append',
    'checksum',
    'name_bytes',
    'name_text',
    'open_regular',
    'printable',
    'read_regular',
    'zip_error',
    'atomic_write',
]

_KINDS = (
    (stat.S_ISFIFO, 'a named pipe'),
    (stat.S_ISSOCK, 'a socket'),
    (stat.S_ISCHR, 'a device'),
    (stat.S_ISBLK, 'a device'),
    (stat.S_ISDIR, 'a folder'),
)


class UnusableFile(ValueError):
    """A path that is not a regular file, or a file that is larger than its reader allows."""


def open_regular(path: str | Path, limit: Optional[int] = None) -> BinaryIO:
    """Open a regular file for reading, without blocking on a pipe, a socket or a device.

    Links are followed, and their target is checked.

    Args:
        path (str | Path): File to open.
        limit (int, optional): Maximum size in bytes. Defaults to None, no limit.

    Returns:
        BinaryIO: The open file, to be closed by the caller.

    Raises:
        UnusableFile: If the path is a folder, pipe, socket or device, or larger than ``limit``.
        OSError: If it does not exist or cannot be read.
    """
    return os.fdopen(_open_regular(path, limit)[0], 'rb')


def _open_regular(path: str | Path, limit: Optional[int]) -> tuple[int, int]:
    """Open a regular file; returns its descriptor and its size in bytes."""
    _check_regular(path, os.stat(path), limit)  # some devices react to being opened
    handle = os.open(
        path,
        os.O_RDONLY
        | getattr(os, 'O_NONBLOCK', 0)
        | getattr(os, 'O_CLOEXEC', 0)
        | getattr(os, 'O_BINARY', 0),
    )
    try:
        status = os.fstat(handle)
        _check_regular(path, status, limit)  # it may have been replaced
        return handle, status.st_size
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, limit: Optional[int] = None) -> bytes:
    """Read a regular file; see :func:`open_regular` for the errors.

    Args:
        path (str | Path): File to read.
        limit (int, optional): Maximum size in bytes. Defaults to None, no limit.

    Returns:
        bytes: Content of the file.
    """
    handle, size = _open_regular(path, limit)
    try:  # without a file object, whose set-up takes longer than reading a small image
        data = os.read(handle, size)
        while 0 < len(data) < size:  # Linux returns at most 2 GiB at a time
            more = os.read(handle, size - len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(handle)


def _check_regular(path: str | Path, status: os.stat_result, limit: Optional[int]) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), 'special')
        raise UnusableFile(f'{printable(path)} must be a regular file, but is {kind}')
    if limit is not None and status.st_size > limit:
        raise UnusableFile(
            f'{printable(path)} has {status.st_size:,} bytes, more than the limit of {limit:,}'
        )


def name_bytes(name: str | Path) -> bytes:
    """Encode a file name or path, even if it is not valid UTF-8.

    All digests, packed files and comparisons use this encoding; valid names are plain UTF-8
    whatever the locale. The inverse is :func:`name_text`.
    """
    return str(name).encode('utf-8', 'surrogateescape')


def name_text(data: bytes) -> str:
    """Decode a name that :func:`name_bytes` encoded."""
    return data.decode('utf-8', 'surrogateescape')


def printable(name: str | Path) -> str:
    r"""Escape a name for messages and pages: valid Unicode in one line.

    Bytes that are not UTF-8 become ``\xNN``; line breaks and other control characters become
    their escape sequences. Other names are unchanged.
    """
    try:
        data = name_bytes(name)
    except UnicodeEncodeError:  # a lone surrogate, e.g. from a json file
        data = str(name).encode('utf-8', 'backslashreplace')
    text = data.decode('utf-8', 'backslashreplace')
    return ''.join(
        char if char.isprintable() or char == ' ' else char.encode('unicode_escape').decode('ascii')
        for char in text
    )


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: after a crash, the old file, or none, or the new one exists.

    Partial files that killed processes left for the same path are deleted.

    Args:
        path (str | Path): File to write; its folder is created.

    Yields:
        Path: Temporary path to write to, with the same suffix in the same folder. After the
        context it is synced to disk and renamed to ``path``; after an error it is deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    partial = partial_path(path)
    try:
        yield partial
        with open(partial, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = str(path)  # writing to an open file does not set it
        raise
    finally:
        if os.path.exists(partial):
            partial.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Sync a renamed entry to disk; not every system can open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def atomic_append(path: str | Path, text: str) -> None:
    """Append to a text file; if that fails, the file is unchanged.

    Args:
        path (str | Path): File to append to; created with its folder if it does not exist.
        text (str): Lines.

    Raises:
        OSError: If the text cannot be written completely.
    """
    path = Path(path)
    data = text.encode('utf-8', 'backslashreplace')
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        if os.write(handle, data) < len(data):
            os.ftruncate(handle, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(handle)


def zip_error(path: str | Path) -> Optional[str]:
    """Check a zip archive, such as a PyTorch checkpoint.

    Args:
        path (str | Path): The archive.

    Returns:
        str, optional: What is wrong with it; None if all checksums match.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
        return None if part is None else f'has a damaged part, {part}'
    # zipfile raises many types of errors for damaged files.
    except Exception as error:
        return f'cannot be read ({type(error).__name__}: {error})'


def checksum(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
