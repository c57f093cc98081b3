"""Start data loader workers, control their reaction to signals, and track what they read."""

from __future__ import annotations

import atexit
import logging
import mmap
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils.worker import _worker_loop

from cotap_mm import signals
from cotap_mm.distributed.collectives import rank
from cotap_mm.registry import FUNCTIONS

_POLL = 0.5  # seconds
_MAX_WORKERS = 256

# 1 while workers must survive a SIGTERM. Memory that forked workers share; it does not need
# /dev/shm.
_needed = mmap.mmap(-1, 1)


def warning_level() -> int:
    """Log level of a warning about a rank's own files; MMEngine logs only errors of ranks > 0."""
    return logging.ERROR if rank() else logging.WARNING


def keep_workers(needed: bool) -> None:
    """Set whether the workers of this process survive a SIGTERM.

    Schedulers and ``torchrun`` send it to all processes of a training. A worker that dies of it
    would abort the training in the middle of a step, before it can save.

    Args:
        needed (bool): Whether the workers ignore a SIGTERM.
    """
    _needed[0] = int(needed)


@contextmanager
def surviving_workers() -> Iterator[None]:
    """Context in which the workers survive a SIGTERM; see :func:`keep_workers`."""
    before = bool(_needed[0])
    keep_workers(True)
    try:
        yield
    finally:
        keep_workers(before)


# Runs before multiprocessing terminates its workers with a SIGTERM and joins them.
atexit.register(keep_workers, False)


@FUNCTIONS.register_module()
def start_worker(worker_id: int, **_: Any) -> None:
    """Initialize a worker: ignore Ctrl-C and SIGUSR1; SIGTERM if :func:`keep_workers` is in effect.

    The main process handles Ctrl-C, and then terminates its workers.

    No random state is seeded, since all draws follow from a :class:`Visit`.

    Args:
        worker_id (int): Passed by the loader.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'SIGUSR1'):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _on_sigterm(number: int, frame: Any) -> None:
    if not _needed[0]:
        os._exit(0)


def _choose_handler(frame: Any) -> Any:
    """Handler of SIGTERM in a forked process: loader workers survive, all others obey.

    A Pool, for instance, terminates its workers by SIGTERM and waits for them. Right after the
    fork a process still has the identity of its parent; the stack shows what is being started.
    """
    while frame is not None:
        process = frame.f_locals.get('process_obj')  # of multiprocessing's Popen._launch
        if process is not None:
            is_loader_worker = getattr(process, '_target', None) is _worker_loop
            return _on_sigterm if is_loader_worker else signal.SIG_DFL
        frame = frame.f_back
    return signal.SIG_DFL


signals.on_fork(_choose_handler)


def sleep(seconds: float) -> None:
    """Sleep until a signal arrives (:func:`cotap_mm.signals.sleep`); exit a worker without parent.

    Args:
        seconds (float): Maximum duration.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        signals.sleep(min(_POLL, max(end - time.monotonic(), 0)))
        parent = parent_process() if get_worker_info() is not None else None
        if parent is not None and not parent.is_alive():
            os._exit(1)


def shared_zeros(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros in memory that forked workers share, without ``/dev/shm``; taken page by page on use.

    Args:
        count (int): Number of elements, at least 1.
        dtype (torch.dtype): Their type.

    Returns:
        Tensor: Shape (count,).
    """
    return torch.frombuffer(mmap.mmap(-1, dtype.itemsize * count), dtype=dtype)


class ReadingSigns:
    """What each worker of a loader is reading, and when it last made progress.

    Stored in memory that forked workers share.
    """

    def __init__(self) -> None:
        # Entry 0 is the main process; -1 means nothing.
        self._index = shared_zeros(_MAX_WORKERS + 1, torch.int64).fill_(-1)
        self._time = shared_zeros(_MAX_WORKERS + 1, torch.float64)

    @contextmanager
    def reading(self, index: int) -> Iterator[None]:
        """Context in which this process reads an image.

        Args:
            index (int): Index of the image.
        """
        slot, indices, times = self._slot(), self._index.numpy(), self._time.numpy()
        indices[slot] = index
        times[slot] = time.monotonic()
        try:
            yield
        finally:
            indices[slot] = -1
            times[slot] = time.monotonic()

    def alive(self) -> None:
        """Record that this process makes progress."""
        self._time[self._slot()] = time.monotonic()  # the same clock in all processes

    @property
    def being_read(self) -> list[int]:
        """Indices of the images that are being read."""
        return sorted({index for index in self._index.tolist() if index >= 0})

    @property
    def latest(self) -> float:
        """Last progress of any process, in seconds of ``time.monotonic``; 0 if there was none."""
        return float(self._time.max())

    @staticmethod
    def _slot() -> int:
        worker = get_worker_info()
        return 0 if worker is None else 1 + worker.id % _MAX_WORKERS


class WatchedImages(Dataset):
    """Data set over the images of a source that tells what its workers are reading.

    Args:
        source (ImageSource): The images.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.signs = ReadingSigns()

    @property
    def being_read(self) -> list[str]:
        """Names of the images that are being read."""
        return [self.source.name(index) for index in self.signs.being_read]

    @property
    def latest_sign(self) -> float:
        """Last time a process started or finished an image, in seconds of ``time.monotonic``."""
        return self.signs.latest
