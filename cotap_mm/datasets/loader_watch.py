"""Detect data loader workers that hang or die, and report which images they were reading."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

from mmengine.logging import print_log
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from cotap_mm.errors import UserError

_CHECK_INTERVAL = 30.0  # seconds between two checks of the workers while a batch is awaited


class LoaderWatch:
    """Stop waiting for a batch if workers hang, and report what they were reading.

    The loader's own timeout is not sufficient: it also aborts if workers are slow or wait for a
    disk to come back; and a process that receives a tensor from a worker waits for that worker
    without any limit. Instead, a thread checks the workers and kills them.

    Args:
        limit (float): Seconds without progress after which workers count as hung.
        latest_sign (callable, optional): Returns the time of the last progress, see
            :attr:`.ReadingSigns.latest`. Defaults to None, the activity of each process as
            measured by the system, see :class:`_ProcessSigns`.
        being_read (callable): Returns the names of the images that are being read, for the
            message. Defaults to no names.
    """

    def __init__(
        self,
        limit: float,
        latest_sign: Callable[[], float] | None = None,
        being_read: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.limit, self._being_read = limit, being_read
        self._latest_sign = latest_sign or _ProcessSigns(self._workers).latest
        self._batches: Any = None  # iterator whose next batch is awaited
        self._since: float | None = None  # start of the wait
        self._reason = ''
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def next_batch(self, batches: Iterator) -> Any:
        """Return the next batch.

        Args:
            batches (iterator): Iterator of a loader.

        Raises:
            UserError: If the loader's workers hang.
            StopIteration: After the last batch.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        self._batches, self._since = batches, time.monotonic()
        try:
            return next(batches)
        except Exception as error:
            if self._reason:
                _kill(self._workers())
                raise UserError(self._reason) from error
            raise
        finally:
            self._batches = self._since = None

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()

    def _workers(self) -> list[multiprocessing.process.BaseProcess]:
        own = {worker.pid for worker in getattr(self._batches, '_workers', ())}
        return [child for child in _children() if not own or child.pid in own]

    def _watch(self) -> None:
        pause, warned = min(_CHECK_INTERVAL, self.limit / 4), None
        checked = time.monotonic()
        while not self._closed.wait(pause):
            since, now = self._since, time.monotonic()
            was_stopped, checked = now - checked > 2 * pause + 5, now  # this process itself
            if since is None or was_stopped:
                continue
            silence = now - max(since, self._latest_sign())
            if silence > self.limit:
                self._abort(silence)
                return
            if silence > 2 * pause and warned != since:
                warned = since
                print_log(
                    f'{self._describe(silence)}; waiting {self.limit - silence:.0f} s more',
                    logger='current',
                    level=logging.WARNING,
                )

    def _abort(self, silence: float) -> None:
        self._reason = (
            f'{self._describe(silence)}. Check the disk, then start again (a training with '
            '--resume), perhaps with fewer num_workers'
        )
        for worker in self._workers():
            worker.kill()  # wakes the main thread
        if not self._closed.wait(_CHECK_INTERVAL) and self._since is not None:
            print(f'error: {self._reason}', file=sys.stderr, flush=True)
            os._exit(1)  # a worker that waits for a hung disk cannot be killed or joined

    def _describe(self, seconds: float) -> str:
        states = {
            'T': 'stopped by a signal',
            't': 'stopped by a debugger',
            'D': 'waiting for a disk',
            'Z': 'dead',
        }
        workers = [
            f'{child.pid} ({states.get(_state(child.pid), "running")})' for child in self._workers()
        ]
        return (
            f'no worker of the data loader has made progress for {seconds:.0f} s; processes '
            f'{", ".join(sorted(workers)) or "unknown"}, reading '
            f'{", ".join(self._being_read()) or "unknown images"}'
        )


class _ProcessSigns:
    """Time of the last activity of the least active worker, from counters of Linux.

    An idle worker wakes up every few seconds, and one that reads or computes is active too. A
    worker that was stopped, or waits for a lock or a hung disk, is not.

    Args:
        workers (callable): Returns the processes.
    """

    def __init__(self, workers: Callable[[], Sequence]) -> None:
        self._workers = workers
        self._counts: dict[int, tuple[Any, float]] = {}

    def latest(self) -> float:
        """Time in seconds of ``time.monotonic``; 0 without workers, now without counters."""
        now, counts = time.monotonic(), {}
        for worker in self._workers():
            count = _activity(worker.pid)
            before = self._counts.get(worker.pid)
            is_silent = before is not None and count is not None and before[0] == count
            counts[worker.pid] = before if is_silent else (count, now)
        self._counts = counts
        return min((seen for _, seen in counts.values()), default=0.0)


class WatchedLoader(DataLoader):
    """A loader whose iterators detect workers that hang; see :func:`watch_loader`."""

    patience = 0.0

    def __iter__(self) -> Iterator:
        batches = super().__iter__()
        return (
            _WatchedBatches(batches, LoaderWatch(self.patience, *_signs_of(self.dataset)))
            if self.num_workers
            else batches
        )


class _WatchedBatches:
    """Batches of a loader, watched by a :class:`LoaderWatch`."""

    def __init__(self, batches: Iterator, watch: LoaderWatch) -> None:
        self._batches, self._watch = batches, watch

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        try:
            return self._watch.next_batch(self._batches)
        except StopIteration:
            self._watch.close()
            raise

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['_batches'], name)

    def __del__(self) -> None:
        self._watch.close()


def _signs_of(dataset: Any) -> tuple:
    """Progress reported by our own data sets; also detects a worker in an endless loop."""
    if not hasattr(dataset, 'latest_sign'):
        return ()
    return lambda: dataset.latest_sign, lambda: dataset.being_read


def watch_loader(loader: Any, patience: float) -> Any:
    """Make an existing loader detect workers that hang.

    Args:
        loader (DataLoader): Changed in place: it becomes a :class:`WatchedLoader`.
        patience (float): Seconds without progress after which workers count as hung.

    Returns:
        DataLoader: The same object; other types are returned unchanged.
    """
    if isinstance(loader, DataLoader) and not isinstance(loader, WatchedLoader):
        base = type(loader)
        loader.__class__ = type(f'Watched{base.__name__}', (WatchedLoader, base), {})
        loader.patience = patience
    return loader


def _children() -> list[multiprocessing.process.BaseProcess]:
    return [child for child in multiprocessing.active_children() if child.daemon]


def _state(pid: int | None) -> str:
    """State of a process as one letter; '' on systems other than Linux."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except (OSError, IndexError):
        return ''


def _activity(pid: int | None) -> tuple | None:
    """Counters that grow while a process is active: CPU time, context switches; None if unknown."""
    try:
        computed = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[11:13]
        status = Path(f'/proc/{pid}/status').read_text().splitlines()
    except OSError:
        return None
    return (*computed, *(line for line in status if 'ctxt_switches' in line))


def _kill(workers: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Kill workers of which one hangs; it would not react to the SIGTERM that PyTorch sends."""
    is_main = threading.current_thread() is threading.main_thread()
    # PyTorch's handler would raise its own error at an arbitrary point.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if is_main else None
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(1)
    if is_main:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def report_dead_worker(being_read: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Report which images were being read when a worker died or the loader timed out.

    PyTorch may raise its error at any time in this context, not only in calls of the loader.

    Args:
        being_read (callable): Returns the names of the images that are being read.

    Raises:
        UserError: Instead of PyTorch's error, which does not name the images.
    """
    try:
        yield
    except Exception as error:
        death = _find_death(error) or _find_dead_worker(error)
        if death is None:
            raise
        if threading.current_thread() is threading.main_thread() and hasattr(signal, 'SIGCHLD'):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise again
        reading = ', '.join(being_read()) or 'nothing'
        if _is_timeout(death):
            _kill(_children())
            raise UserError(
                f'a worker of the data loader hangs ({death}). It was reading one of: {reading}. '
                'Check the disk, then start again (a training with --resume)'
            ) from error
        raise UserError(
            f'a worker of the data loader died ({death}). It was reading one of: {reading}. If it '
            'was killed because memory ran out, use fewer train_dataloader.num_workers; otherwise '
            'check these images. Saved results are kept: start again (a training with --resume)'
        ) from error


def _find_death(error: BaseException) -> BaseException | None:
    """Find PyTorch's error about a worker among the causes and contexts of an error."""
    link: BaseException | None = error
    seen: list = []  # causes and contexts may form a cycle
    while link is not None and not any(link is other for other in seen):
        if _is_death(link) or _is_timeout(link):
            return link
        seen.append(link)
        link = None if isinstance(link, UserError) else link.__cause__ or link.__context__
    return None


def _find_dead_worker(error: BaseException) -> BaseException | None:
    """Find PyTorch's error about a worker that died while a tensor was received from it.

    Then the connection ends first, and PyTorch notices the dead worker a moment later.
    """
    end = time.monotonic() + 1
    while isinstance(error, (EOFError, ConnectionError)) and time.monotonic() < end:
        try:  # PyTorch's handler of SIGCHLD may raise as well, during the sleep
            signal_handling._error_if_any_worker_fails()
            time.sleep(0.05)
        except RuntimeError as death:
            return death
    return None


def _is_death(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker (pid')


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith('DataLoader timed out')
