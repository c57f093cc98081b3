"""Report a rank that failed, died, was stopped or hangs, and abort the other ranks.

The one mechanism for training, evaluation and the neighbor builder:

* Store: the :class:`.Messenger` thread of every rank connects to the TCPStore at ``MASTER_ADDR``
  and ``MASTER_PORT``. All keys are below ``cotap_mm/watch/RESTART``: ``name/RANK`` is the process
  and its host, ``beat/RANK`` its heartbeat, ``failure/CONTEXT`` the report of a rank that failed,
  ``failure/CONTEXT/known/RANK`` its receipt, ``waits/RANK`` the answer after a failed collective.
* Context: work of all ranks runs in :func:`abort_all_ranks_on_error` (evaluation, neighbors) or
  :func:`report_unresponsive_ranks` (start-up, training). A rank that raises there publishes its
  error. A rank without a heartbeat for 80 % of the timeout is lost; see :class:`.Liveness`.
* Reaction: code that polls calls :meth:`.RankWatch.check`, as :mod:`.file_barrier` does, and gets
  a :class:`LostRank`. A thread of :class:`.RankWatch` exits a process whose main thread is blocked
  in a collective, or in anything else that cannot be interrupted.
* Report: one sentence names the rank, its process and host, and the cause: ``rank 1 (process 7 on
  node2) failed: OSError: ...`` or ``rank 1 (process 7 on node2) does not answer: it died ...``.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Callable

from cotap_mm import signals

from .collectives import rank, world_size
from .timeouts import DEFAULT_TIMEOUT, group_timeout, limit_of, timeout_of
from .watch import LostRank, RankWatch

__all__ = [
    'LostRank',
    'abort_all_ranks_on_error',
    'current_watch',
    'report_unresponsive_ranks',
    'show_progress',
    'silence_limit',
    'start_watch',
]
_SHUTDOWN = 60.0  # seconds for the interpreter to shut down
_watch: tuple[Any, RankWatch] | None = None


@contextmanager
def abort_all_ranks_on_error(
    where: Callable[[], str] = lambda: 'waiting for the others',
    advice: str = ', then start again (training: with --resume)',
    watch: RankWatch | None = None,
) -> Iterator[None]:
    """Abort all ranks if one of them raises an error in this context, dies or is stopped.

    The rank that fails raises its error. The others may be in a collective that cannot be
    interrupted: they print what happened and exit with status 1. After a signal to one of them
    they print that instead and exit with status 0, and rank 0 after them with 75. Without a
    process group nothing happens.

    A rank whose main thread hangs is detected when a collective with it times out.

    Args:
        where (callable): Returns the progress of this process, for the message.
        advice (str): Appended to the message about a lost rank.
        watch (RankWatch, optional): Watch to use before there is a process group. Defaults to
            that of the process group.

    Raises:
        LostRank: Instead of the error of a collective, with the ranks that do not answer.
    """
    watch = watch or current_watch()
    with nullcontext() if watch is None else watch.context(where, advice):
        yield


@contextmanager
def report_unresponsive_ranks(
    iteration: Callable[[], int] | None = None, watch: RankWatch | None = None
) -> Iterator[None]:
    """Abort all ranks of a training if one fails, dies or hangs.

    Same as :func:`abort_all_ranks_on_error`, with the messages of a training.

    Args:
        iteration (callable, optional): Returns the current iteration. Defaults to None, before
            the training.
        watch (RankWatch, optional): Watch to use before there is a process group. Defaults to
            that of the process group.

    Raises:
        LostRank: Instead of the error of a collective, with the ranks that do not answer.
    """

    def where() -> str:
        return 'start-up' if iteration is None else f'iteration {iteration()}'

    with abort_all_ranks_on_error(where, '; --resume continues from the last checkpoint', watch):
        yield


def start_watch(rank: int, size: int, timeout: float) -> RankWatch | None:
    """Start watching the other ranks, and being watched by them.

    Needs the store at ``MASTER_ADDR`` and ``MASTER_PORT``, which all launchers set.

    Args:
        rank (int): Rank of this process.
        size (int): Number of ranks.
        timeout (float): Seconds after which waiting for a rank fails.

    Returns:
        RankWatch, optional: None without such a store, or for a single process.
    """
    global _watch
    address = os.environ.get('MASTER_ADDR'), os.environ.get('MASTER_PORT')
    if size == 1 or not all(address):
        return None
    key = address, rank, size, os.getpid()
    if _watch is not None and _watch[0] == key:
        return _watch[1]
    if _watch is None:
        atexit.register(_stop_watch)
    elif _watch[0][-1] == os.getpid():
        _watch[1].stop()
    _watch = key, RankWatch(rank, size, timeout)
    signals.set_exit_handler(_leave)
    return _watch[1]


def current_watch() -> RankWatch | None:
    """The watch of the process group; None for a single process."""
    if world_size() == 1:
        return None
    return start_watch(rank(), world_size(), timeout_of(group_timeout()))


def silence_limit() -> float:
    """Seconds of silence after which a rank or a data loader worker counts as lost."""
    watch = current_watch()
    return limit_of(timeout_of(DEFAULT_TIMEOUT)) if watch is None else watch.limit


def show_progress() -> None:
    """Record, if there is a watch, that this process does not hang."""
    watch = current_watch()
    if watch is not None:
        watch.step()


def _stop_watch() -> None:
    if _watch is not None and _watch[0][-1] == os.getpid():
        _exit_within(_SHUTDOWN)  # a lost rank can make the shutdown hang as well
        _watch[1].stop()


def _exit_within(seconds: float) -> None:
    """Force this process to exit after that time, even without a working interpreter."""
    quiet = open(os.devnull, 'w')
    faulthandler.dump_traceback_later(seconds, exit=True, file=quiet)


def _leave(name: str) -> int:
    """Exit status of a process that a signal ends; see :meth:`.RankWatch.leave`."""
    if _watch is None or _watch[0][-1] != os.getpid():
        return signals.status_of(name)
    return _watch[1].leave(name)
