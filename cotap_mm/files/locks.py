"""Locks on files and folders that name the process that holds them."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from cotap_mm.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_POLL = 0.5  # seconds
_REPORT = 30.0  # seconds between two messages while waiting
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_HELD = (errno.EACCES, errno.EAGAIN)
_held: dict[str, Lock] = {}  # by this process


class Locked(UserError):
    """Another process holds the lock."""


class Lock:
    """An exclusive lock that is released when its process exits or dies.

    It is a POSIX record lock of the operating system: forked processes do not inherit it,
    network file systems share it between machines, and it never becomes stale. The file names
    its holder. A process that locks the same path again reuses its lock.

    Args:
        path (str | Path): Lock file; its folder is created.
        purpose (str): What the lock is for; shown to other processes.
    """

    def __init__(self, path: str | Path, purpose: str) -> None:
        self.path = Path(path)
        self.purpose = purpose
        self._handle = -1
        self._count = 0

    def acquire(self) -> bool:
        """Try to acquire the lock.

        Returns:
            bool: Whether this process holds it now.

        Raises:
            OSError: If locking fails for another reason than another holder.
        """
        if self._handle >= 0:
            self._count += 1
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                is_ours = _lock(handle)
            except OSError:
                os.close(handle)
                raise
            if not is_ours:
                os.close(handle)
                return False
            try:
                is_current = os.fstat(handle).st_ino == os.stat(self.path).st_ino
            except FileNotFoundError:  # the previous holder has just removed it
                is_current = False
            if is_current:
                break
            os.close(handle)
        self._handle, self._count = handle, 1
        text = json.dumps(
            dict(
                host=socket.gethostname(),
                pid=os.getpid(),
                purpose=self.purpose,
                since=time.strftime('%Y-%m-%d %H:%M:%S'),
            )
        )
        try:
            os.ftruncate(handle, 0)
            os.write(handle, text.encode())
        except OSError:  # full disk; the lock itself works
            pass
        _held[os.path.realpath(self.path)] = self
        return True

    def release(self) -> None:
        """Release the lock; call it as often as :meth:`acquire`."""
        if self._handle < 0:
            return
        self._count -= 1
        if self._count:
            return
        _held.pop(os.path.realpath(self.path), None)
        for pause in (0.1, 0.5, None):  # a network drive may be unavailable for a moment
            try:
                self.path.unlink()
            except FileNotFoundError:
                break
            except OSError:
                if pause is not None:
                    time.sleep(pause)
                    continue
            break
        os.close(self._handle)
        self._handle = -1

    def owner(self) -> str:
        """Describe the holder according to the lock file."""
        try:
            owner = json.loads(self.path.read_text(encoding='utf-8'))
            return (
                f'process {owner["pid"]} on {owner["host"]} ({owner["purpose"]}, since '
                f'{owner["since"]})'
            )
        except (OSError, ValueError, KeyError, TypeError):
            return 'another process'


def acquire_lock(path: str | Path, purpose: str, remedy: str) -> Lock:
    """Acquire a lock, or raise an error that names its holder.

    Args:
        path (str | Path): Lock file.
        purpose (str): What the lock is for, e.g. ``'training'``.
        remedy (str): What to do if another process holds it; end of the message.

    Returns:
        Lock: The acquired lock; the caller must release it.

    Raises:
        Locked: If another process holds it.
    """
    lock = _held.get(os.path.realpath(path)) or Lock(path, purpose)
    if not lock.acquire():
        raise Locked(f'{Path(path).parent} is in use by {lock.owner()}; {remedy}')
    return lock


@contextmanager
def locked(
    path: str | Path, purpose: str, check: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold a lock; wait while another process holds it, and log which one.

    Args:
        path (str | Path): Lock file.
        purpose (str): What the lock is for.
        check (callable): Called while waiting; may raise, e.g. for a signal.
    """
    lock = _held.get(os.path.realpath(path)) or Lock(path, purpose)
    next_report = time.monotonic()
    while not lock.acquire():
        if time.monotonic() >= next_report:
            from mmengine.logging import print_log  # late: tools import this module at their start

            print_log(
                f'{purpose}: waiting for {lock.owner()}, which holds {path}',
                logger='current',
                level=logging.WARNING,
            )
            next_report = time.monotonic() + _REPORT
        check()
        time.sleep(_POLL)
    try:
        yield
    finally:
        lock.release()


def is_held(path: str | Path) -> bool:
    """Whether this process holds the lock of a path; closing a second handle would release it."""
    return os.path.realpath(path) in _held


def _lock(handle: int) -> bool:
    """Lock an open file without waiting; True also if the file system has no locks.

    Raises:
        OSError: If it fails for another reason than another holder.
    """
    if fcntl is None:
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (*_UNSUPPORTED, *_HELD):
            raise
        return error.errno in _UNSUPPORTED
    return True
