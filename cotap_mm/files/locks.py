"""Locks on files and folders: one process writes, and the others know which one it is."""

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

from mmengine.logging import print_log

from cotap_mm.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_POLL = 0.5  # seconds
_REPORT = 30.0  # seconds between two messages of a process that waits
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_HELD = (errno.EACCES, errno.EAGAIN)
_held: dict[str, Lock] = {}  # by this process


class Locked(UserError):
    """Another process is writing there."""


class Lock:
    """An exclusive lock that ends with its process, however that dies.

    The operating system keeps it (a POSIX record lock, which processes forked from this one
    do not inherit, and which network file systems share between machines), so nothing stale
    is left behind; the file says who holds it. A process that locks the same path again gets
    the lock that it has.

    Args:
        path (str | Path): The lock file; its folder is made.
        purpose (str): What is being done, for the messages of others.
    """

    def __init__(self, path: str | Path, purpose: str) -> None:
        self.path = Path(path)
        self.purpose = purpose
        self._handle = -1
        self._count = 0

    def acquire(self) -> bool:
        """Take the lock if nobody else has it; whether this process has it now."""
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
            except FileNotFoundError:  # its last holder has just removed it
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
        except OSError:  # a full disk; the lock itself holds
            pass
        _held[os.path.realpath(self.path)] = self
        return True

    def release(self) -> None:
        """Give it back; as often as it was acquired."""
        if self._handle < 0:
            return
        self._count -= 1
        if self._count:
            return
        _held.pop(os.path.realpath(self.path), None)
        for pause in (0.1, 0.5, None):  # a disk of the network may be away for a moment
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
        """Who holds it, as far as the file says."""
        try:
            found = json.loads(self.path.read_text(encoding='utf-8'))
            return (
                f'process {found["pid"]} on {found["host"]} ({found["purpose"]}, since '
                f'{found["since"]})'
            )
        except (OSError, ValueError, KeyError, TypeError):
            return 'another process'


def acquire_lock(path: str | Path, purpose: str, remedy: str) -> Lock:
    """Take a lock, or raise an error that names its holder.

    Args:
        path (str | Path): The lock file.
        purpose (str): What is going to be done, e.g. ``'training'``.
        remedy (str): What to do where somebody else has it; ends the message.

    Returns:
        Lock: To be released.

    Raises:
        Locked: If another process has it.
    """
    lock = _held.get(os.path.realpath(path)) or Lock(path, purpose)
    if not lock.acquire():
        raise Locked(f'{Path(path).parent} is in use by {lock.owner()}; {remedy}')
    return lock


@contextmanager
def locked(
    path: str | Path, purpose: str, check: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold a lock; wait while another process has it, and say for whom.

    Args:
        path (str | Path): The lock file.
        purpose (str): What is going to be done.
        check (callable): Called while waiting; it may raise, e.g. for a signal.
    """
    lock = _held.get(os.path.realpath(path)) or Lock(path, purpose)
    next_report = time.monotonic()
    while not lock.acquire():
        if time.monotonic() >= next_report:
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
    """Whether this process holds the lock of a path; locking it anew would end that."""
    return os.path.realpath(path) in _held


def _lock(handle: int) -> bool:
    """Lock an open file without waiting; True where the file system knows no locks.

    Raises:
        OSError: If it fails for another reason than that somebody else has it.
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
