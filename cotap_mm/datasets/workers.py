"""How a loader's worker starts, and what it does about signals."""

from __future__ import annotations

import atexit
import logging
import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any

import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils.worker import _worker_loop

from cotap_mm import signals
from cotap_mm.distributed.collectives import rank
from cotap_mm.registry import FUNCTIONS

_POLL = 0.5  # seconds
_MOST_WORKERS = 256

# In memory that forked workers share, also where /dev/shm is full. 1 while workers must survive
# a SIGTERM.
_needed = mmap.mmap(-1, 1)


def warning_level() -> int:
    """Level of a warning about a rank's own files; above rank 0 MMEngine shows only errors."""
    return logging.ERROR if rank() else logging.WARNING


def keep_workers(needed: bool) -> None:
    """Let the workers of this process live through a SIGTERM, or not.

    Schedulers and ``torchrun`` send it to all processes of a training. A worker that died
    of it would end the training in the middle of a step, before it can save.
    """
    _needed[0] = int(needed)


@contextmanager
def surviving_workers() -> Iterator[None]:
    """Let the workers live through a SIGTERM within this context; see :func:`keep_workers`."""
    before = bool(_needed[0])
    keep_workers(True)
    try:
        yield
    finally:
        keep_workers(before)


# Runs before multiprocessing ends its workers with a SIGTERM and waits for them.
atexit.register(keep_workers, False)


@FUNCTIONS.register_module()
def start_worker(worker_id: int, **_: Any) -> None:
    """Start of a worker: SIGUSR1 is ignored, and SIGTERM where :func:`keep_workers` says so.

    It needs no seed: all draws follow from a :class:`Visit`.

    Args:
        worker_id (int): Given by the loader.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    if hasattr(signal, 'SIGUSR1'):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _on_sigterm(number: int, frame: Any) -> None:
    if not (_needed[0] and _may_be_of_a_loader()):
        os._exit(0)


def _may_be_of_a_loader() -> bool:
    """Whether this child is not known to be another's, such as of a Pool, which would wait for it.

    Until it knows itself what it is for, right after the fork, it may be.
    """
    target = getattr(multiprocessing.current_process(), '_target', None)
    return target is None or target is _worker_loop


signals.on_signal_in_child(_on_sigterm)  # from the first moment of a forked worker


def sleep(seconds: float) -> None:
    """Wait; a signal ends that (:func:`cotap_mm.signals.sleep`), in a worker its parent's death.

    Args:
        seconds (float): How long.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        signals.sleep(min(_POLL, max(end - time.monotonic(), 0)))
        parent = parent_process() if get_worker_info() is not None else None
        if parent is not None and not parent.is_alive():
            os._exit(1)


def _shared(dtype: torch.dtype) -> torch.Tensor:
    """8 bytes for each worker and the main process, zeros."""
    return torch.frombuffer(mmap.mmap(-1, 8 * (_MOST_WORKERS + 1)), dtype=dtype)


class ReadingSigns:
    """What each worker of a loader is reading, and when it last showed that it lives.

    In memory that forked workers share.
    """

    def __init__(self) -> None:
        # The main process comes first; -1 for nothing.
        self._index = _shared(torch.int64).fill_(-1)
        self._time = _shared(torch.float64)

    @contextmanager
    def reading(self, index: int) -> Iterator[None]:
        """This process reads an image, in this context."""
        place = self._place()
        self._index[place] = index
        self.alive()
        try:
            yield
        finally:
            self._index[place] = -1
            self.alive()

    def alive(self) -> None:
        """This process does not hang, though it takes long."""
        self._time[self._place()] = time.monotonic()  # the same clock in all processes

    @property
    def being_read(self) -> list[int]:
        """Images that were begun and not finished."""
        return sorted({index for index in self._index.tolist() if index >= 0})

    @property
    def latest(self) -> float:
        """When any process last gave a sign, in seconds of ``time.monotonic``; 0 if none has."""
        return float(self._time.max())

    @staticmethod
    def _place() -> int:
        worker = get_worker_info()
        return 0 if worker is None else 1 + worker.id % _MOST_WORKERS
