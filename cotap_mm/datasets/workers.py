"""How a loader's worker starts, and what it does about signals."""
import atexit
import logging
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence

import torch
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from cotap_mm import signals
from cotap_mm.errors import UserError
from cotap_mm.ops import rank
from cotap_mm.registry import FUNCTIONS

_POLL = 0.5  # seconds
_MOST_WORKERS = 256
_LOOK = 30.0  # seconds after which a process that waits for a batch looks at its workers

# In memory that forked workers share. 1 while workers must survive a SIGTERM.
_needed = torch.zeros(1, dtype=torch.uint8).share_memory_()


def warning_level() -> int:
    """Level of a warning about a rank's own files; above rank 0 MMEngine shows only errors."""
    return logging.ERROR if rank() else logging.WARNING


def keep_workers(needed: bool) -> None:
    """Let the workers of this process live through a SIGTERM, or not.

    Schedulers and ``torchrun`` send it to all processes of a training. A worker that died
    of it would end the training in the middle of a step, before it can save.
    """
    _needed.fill_(int(needed))


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
    if not _needed:
        os._exit(0)


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


class ReadingSigns:
    """What each worker of a loader is reading, and when it last showed that it lives.

    In memory that forked workers share.
    """

    def __init__(self) -> None:
        # The main process comes first; -1 for nothing.
        self._index = torch.full((_MOST_WORKERS + 1, ), -1).share_memory_()
        self._time = torch.zeros(_MOST_WORKERS + 1, dtype=torch.float64).share_memory_()

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
    def being_read(self) -> List[int]:
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


class LoaderWatch:
    """Ends the wait for a loader's batch where its workers hang, and names what they read.

    A time-out of the loader would not do: it also ends the wait for workers that are slow, or
    that wait for a disk to come back; and a process that is about to take a tensor from a worker
    waits for that worker without any limit. So a thread looks at the workers, and kills them.

    Args:
        limit (float): Seconds without a sign of life.
        latest_sign (callable): As :attr:`ReadingSigns.latest`.
        being_read (callable): Names of images, for the message.
    """

    def __init__(self, limit: float, latest_sign: Callable[[], float],
                 being_read: Callable[[], Sequence[str]]) -> None:
        self.limit, self._latest_sign, self._being_read = limit, latest_sign, being_read
        self._since: Optional[float] = None  # when the wait began
        self._reason = ''
        self._thread: Optional[threading.Thread] = None
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
        self._since = time.monotonic()
        try:
            return next(batches)
        except Exception as error:
            if self._reason:
                _kill_workers()
                raise UserError(self._reason) from error
            raise
        finally:
            self._since = None

    def close(self) -> None:
        """No more batches are wanted."""
        self._closed.set()

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
                print_log(f'{_describe_silence(silence, self._being_read())}; waiting '
                          f'{self.limit - silence:.0f} s more', logger='current',
                          level=logging.WARNING)

    def _end(self, silence: float) -> None:
        self._reason = (f'{_describe_silence(silence, self._being_read())}. Look at their disk; '
                        'start again, with --resume, or with fewer num_workers')
        for worker in _workers():
            worker.kill()  # the main thread is told of it, wherever it waits
        if not self._closed.wait(_LOOK) and self._since is not None:
            print(f'error: {self._reason}', file=sys.stderr, flush=True)
            os._exit(1)  # a disk that does not answer keeps the worker, and whoever waits for it


def _describe_silence(seconds: float, names: Sequence[str]) -> str:
    states = {'T': 'stopped by a signal', 't': 'stopped by a debugger', 'D': 'waiting for a disk',
              'Z': 'dead'}
    workers = [f'{child.pid} ({states.get(_state(child.pid), "running")})'
               for child in _workers()]
    return (f'no worker of the loader has given a sign of life for {seconds:.0f} s; processes '
            f'{", ".join(sorted(workers)) or "unknown"}, reading {", ".join(names) or "nothing"}')


def _workers() -> List[multiprocessing.process.BaseProcess]:
    return [child for child in multiprocessing.active_children() if child.daemon]


def _state(pid: Optional[int]) -> str:
    """State of a process in one letter; '' elsewhere than on Linux."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except (OSError, IndexError):
        return ''


def _kill_workers() -> None:
    """End workers of which one hangs; a SIGTERM, as PyTorch sends it, would have to wait."""
    is_main = threading.current_thread() is threading.main_thread()
    # PyTorch's handler would raise its own error, somewhere.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if is_main else None
    workers = _workers()
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(1)
    if is_main:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def explained_deaths(being_read: Callable[[], Sequence[str]]) -> Iterator[None]:
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
        reading = ", ".join(being_read()) or "nothing"
        if _is_timeout(death):
            _kill_workers()
            raise UserError(f'a process of the loader hangs ({death}). It was reading one of: '
                            f'{reading}. Look at their disk; start again, with --resume') from error
        raise UserError(
            f'a process of the loader died ({death}). It was reading one of: '
            f'{reading}. Where it was killed for lack of memory, '
            'fewer train_dataloader.num_workers help; else look at these images. Nothing that was '
            'saved is lost: start again, with --resume') from error


def _find_death(error: BaseException) -> Optional[BaseException]:
    """PyTorch's error about a worker, which may have been taken for another one."""
    link: Optional[BaseException] = error
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
