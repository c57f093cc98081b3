"""Workers of a data loader that hang or die: noticed, ended, and named with what they read."""

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

from cotap_mm.errors import UserError

_LOOK = 30.0  # seconds after which a process that waits for a batch looks at its workers


class LoaderWatch:
    """Ends the wait for a loader's batch where its workers hang, and names what they read.

    A time-out of the loader would not do: it also ends the wait for workers that are slow, or
    that wait for a disk to come back; and a process that is about to take a tensor from a worker
    waits for that worker without any limit. So a thread looks at the workers, and kills them.

    Args:
        limit (float): Seconds without a sign of life.
        latest_sign (callable, optional): As :attr:`.ReadingSigns.latest`. Defaults to None: what
            the system knows of each worker, see :class:`_ProcessSigns`.
        being_read (callable): Names of images, for the message. Defaults to none.
    """

    def __init__(
        self,
        limit: float,
        latest_sign: Callable[[], float] | None = None,
        being_read: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.limit, self._being_read = limit, being_read
        self._latest_sign = latest_sign or _ProcessSigns(self._workers).latest
        self._batches: Any = None  # what is waited for
        self._since: float | None = None  # when the wait began
        self._reason = ''
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def next_batch(self, batches: Iterator) -> Any:
        """The next batch.

        Args:
            batches (iterator): Of a loader.

        Raises:
            UserError: If its workers hang.
            StopIteration: After the last batch.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, daemon=True)
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
        """No more batches are wanted."""
        self._closed.set()

    def _workers(self) -> list[multiprocessing.process.BaseProcess]:
        own = {worker.pid for worker in getattr(self._batches, '_workers', ())}
        return [child for child in _children() if not own or child.pid in own]

    def _look(self) -> None:
        pause, warned = min(_LOOK, self.limit / 4), None
        looked = time.monotonic()
        while not self._closed.wait(pause):
            since, now = self._since, time.monotonic()
            was_stopped, looked = now - looked > 2 * pause + 5, now  # this process itself
            if since is None or was_stopped:
                continue
            silence = now - max(since, self._latest_sign())
            if silence > self.limit:
                self._end(silence)
                return
            if silence > 2 * pause and warned != since:
                warned = since
                print_log(
                    f'{self._describe(silence)}; waiting {self.limit - silence:.0f} s more',
                    logger='current',
                    level=logging.WARNING,
                )

    def _end(self, silence: float) -> None:
        self._reason = (
            f'{self._describe(silence)}. Look at their disk; start again, a '
            'training with --resume, or with fewer num_workers'
        )
        for worker in self._workers():
            worker.kill()  # the main thread is told of it, wherever it waits
        if not self._closed.wait(_LOOK) and self._since is not None:
            print(f'error: {self._reason}', file=sys.stderr, flush=True)
            os._exit(1)  # a disk that does not answer keeps the worker, and whoever waits for it

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
            f'no worker of the loader has given a sign of life for {seconds:.0f} s; processes '
            f'{", ".join(sorted(workers)) or "unknown"}, reading '
            f'{", ".join(self._being_read()) or "nothing that is known"}'
        )


class _ProcessSigns:
    """When the most silent worker last did anything at all, from what Linux counts of it.

    An idle worker wakes every few seconds, and one that reads or computes is counted too. One
    that was stopped, or waits for a lock or a dead disk, is not.

    Args:
        workers (callable): Processes.
    """

    def __init__(self, workers: Callable[[], Sequence]) -> None:
        self._workers = workers
        self._counts: dict[int, tuple[Any, float]] = {}

    def latest(self) -> float:
        """In seconds of ``time.monotonic``; 0 without workers, now where nothing is counted."""
        now, counts = time.monotonic(), {}
        for worker in self._workers():
            count = _activity(worker.pid)
            before = self._counts.get(worker.pid)
            is_silent = before is not None and count is not None and before[0] == count
            counts[worker.pid] = before if is_silent else (count, now)
        self._counts = counts
        return min((seen for _, seen in counts.values()), default=0.0)


class WatchedLoader(DataLoader):
    """A loader whose iterators end their wait for workers that hang; see :func:`watch_loader`."""

    patience = 0.0

    def __iter__(self) -> Iterator:
        batches = super().__iter__()
        return (
            _WatchedBatches(batches, LoaderWatch(self.patience, *_signs_of(self.dataset)))
            if self.num_workers
            else batches
        )


class _WatchedBatches:
    """What a loader gives, under a watch."""

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
    """Signs of a data set of ours, which also notice a worker that computes without end."""
    if not hasattr(dataset, 'latest_sign'):
        return ()
    return lambda: dataset.latest_sign, lambda: dataset.being_read


def watch_loader(loader: Any, patience: float) -> Any:
    """Let a loader that exists end its wait for workers that hang.

    Args:
        loader (DataLoader): Changed in place: it becomes a :class:`WatchedLoader`.
        patience (float): Seconds without a sign of life.

    Returns:
        DataLoader: The same; anything else is returned as it is.
    """
    if isinstance(loader, DataLoader) and not isinstance(loader, WatchedLoader):
        kind = type(loader)
        loader.__class__ = type(f'Watched{kind.__name__}', (WatchedLoader, kind), {})
        loader.patience = patience
    return loader


def _children() -> list[multiprocessing.process.BaseProcess]:
    return [child for child in multiprocessing.active_children() if child.daemon]


def _state(pid: int | None) -> str:
    """State of a process in one letter; '' elsewhere than on Linux."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except (OSError, IndexError):
        return ''


def _activity(pid: int | None) -> tuple | None:
    """What grows while a process lives: seconds computed, times it woke; None if not known."""
    try:
        computed = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[11:13]
        status = Path(f'/proc/{pid}/status').read_text().splitlines()
    except OSError:
        return None
    return (*computed, *(line for line in status if 'ctxt_switches' in line))


def _kill(workers: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """End workers of which one hangs; a SIGTERM, as PyTorch sends it, would have to wait."""
    is_main = threading.current_thread() is threading.main_thread()
    # PyTorch's handler would raise its own error, somewhere.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if is_main else None
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(1)
    if is_main:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def report_dead_worker(being_read: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Say which images a worker was reading when it died, or when a loader gave up waiting.

    PyTorch notices it at any moment, not only where the loader is asked.

    Args:
        being_read (callable): Their names.

    Raises:
        UserError: In place of PyTorch's error, which names none.
    """
    try:
        yield
    except Exception as error:
        death = _find_death(error)
        if death is None:
            raise
        if threading.current_thread() is threading.main_thread() and hasattr(signal, 'SIGCHLD'):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's would raise it once more
        reading = ', '.join(being_read()) or 'nothing'
        if _is_timeout(death):
            _kill(_children())
            raise UserError(
                f'a process of the loader hangs ({death}). It was reading one of: {reading}. Look '
                'at their disk; start again, a training with --resume'
            ) from error
        raise UserError(
            f'a process of the loader died ({death}). It was reading one of: '
            f'{reading}. Where it was killed for lack of memory, '
            'fewer train_dataloader.num_workers help; else look at these images. Nothing that was '
            'saved is lost: start again, a training with --resume'
        ) from error


def _find_death(error: BaseException) -> BaseException | None:
    """PyTorch's error about a worker, which may have been taken for another one."""
    link: BaseException | None = error
    seen: list = []  # causes and contexts may form a circle
    while link is not None and not any(link is other for other in seen):
        if _is_death(link) or _is_timeout(link):
            return link
        seen.append(link)
        link = None if isinstance(link, UserError) else link.__cause__ or link.__context__
    return None


def _is_death(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker (pid')


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith('DataLoader timed out')
