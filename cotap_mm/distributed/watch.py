"""The watch that each process keeps on the other ranks, and how it exits when one of them fails."""

from __future__ import annotations

import itertools
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, NoReturn

from cotap_mm import signals
from cotap_mm.errors import UserError
from cotap_mm.signals import Stopped, status_of

from .liveness import Liveness
from .messenger import POLL, Messenger, agent_holds_store
from .timeouts import limit_of

# Messages of gloo, NCCL and torch for a collective that got no answer.
_NO_ANSWER = re.compile(
    r'timed out|timeout|connection (closed|reset|refused|was likely closed)|broken pipe|'
    r'communicator was aborted|socket|remote process exited|no response',
    re.IGNORECASE,
)
_OWN_ERROR = 2.0  # seconds to exit by itself after another rank was lost or has failed
_DELIVERY = 10.0  # seconds for which a failing rank waits until the others know
_WAIT_FOR_EXIT = 10.0  # seconds for which rank 0, after a signal, waits for the others to exit
_STOPPED = 'stopped by '  # prefix of the report of a rank that a signal stops
_numbers = itertools.count()  # all ranks enter the same contexts in the same order


class LostRank(UserError):
    """Another rank failed, died, was stopped or hangs."""


class RankWatch:
    """Heartbeats and failures of all ranks of a process group.

    One object per process and process group; see :mod:`cotap_mm.distributed.failures`. Time in
    which this process itself was suspended does not count.

    Args:
        rank (int): Rank of this process.
        size (int): Number of ranks.
        timeout (float): Seconds after which waiting for a rank fails.
    """

    def __init__(self, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.limit = limit_of(timeout)
        self._messenger = Messenger(rank, size, timeout, self.limit / 20)
        self._messenger.is_working = self._is_working
        self._liveness = Liveness(self._messenger, self.limit)
        self._contexts: list[tuple[int, Callable[[], str]]] = []
        self._steps_needed = 0
        self._last_step = time.monotonic()
        self._messenger.start()
        threading.Thread(target=self._guard, name='rank watch: guard', daemon=True).start()

    # ---- for code that waits for other ranks -----------------------------------------------

    def check(self, must_stay: bool = False) -> None:
        """Raise if another rank failed; call it in a loop that waits for other ranks.

        Args:
            must_stay (bool): Whether it is an error that a rank has exited regularly. Defaults
                to False.

        Raises:
            LostRank: If another rank failed or does not answer.
            Stopped: If a signal has stopped another rank.
        """
        self.step()
        failure = self._failure()
        if failure.startswith(_STOPPED):
            raise Stopped(failure[len(_STOPPED) :])
        left = self._liveness.left() if must_stay else []
        reason = self._failure() or self._liveness.lost()
        if left and not reason:
            reason = f'rank {self._messenger.describe(left[0])} exited before the others'
        if reason:
            raise LostRank(_with_remedy(f'rank {self.rank}: {reason}'))

    def step(self) -> None:
        """Record that this process makes progress; see :meth:`steps_needed`."""
        self._last_step = time.monotonic()

    @contextmanager
    def steps_needed(self) -> Iterator[None]:
        """In this context, stop the heartbeat if :meth:`step` is not called for a long time."""
        self.step()
        self._steps_needed += 1
        try:
            yield
        finally:
            self._steps_needed -= 1

    # ---- errors and signals in this process ------------------------------------------------

    @contextmanager
    def context(self, where: Callable[[], str], advice: str) -> Iterator[None]:
        """Implement :func:`~cotap_mm.distributed.failures.abort_all_ranks_on_error`."""
        entry = (next(_numbers), where)
        self._contexts.append(entry)
        self._messenger.listening.append(entry[0])
        try:
            with signals.restored():
                yield
        except Stopped as stopped:
            self._remove(entry)
            self._stop_together(stopped, [entry[0]])
            raise
        except Exception as error:
            if _got_no_answer(error):
                self._raise_cause(error, entry, advice)
            self._remove(entry)  # from here on this rank exits with its own error
            if not getattr(error, 'is_known_to_all_ranks', isinstance(error, LostRank)):
                own = self._messenger.describe(self.rank)
                text = f'rank {own} failed: {type(error).__name__}: {error}'
                self._messenger.publish(entry[0], text, _DELIVERY)
                error.is_known_to_all_ranks = True  # type: ignore[attr-defined]
            raise
        finally:
            self._remove(entry)

    def _raise_cause(
        self, error: Exception, entry: tuple[int, Callable[[], str]], advice: str
    ) -> NoReturn:
        """Replace the error of a collective that got no answer by what happened."""
        if self._failure():
            self._abort(self._failure())
        self._remove(entry)
        if signals.received():  # the other ranks got the same signal
            stopped = Stopped(signals.received())
            self._stop_together(stopped, [entry[0]])
            raise stopped from error
        reason = str(error).strip().splitlines()[0][:200]
        raise LostRank(
            f'rank {self.rank}, {entry[1]()}: {self._liveness.missing()}. See its own output or '
            f'the log of its machine{advice} ({reason})'
        ) from error

    def _remove(self, entry: tuple[int, Callable[[], str]]) -> None:
        if entry in self._contexts:
            self._contexts.remove(entry)
            self._messenger.listening.remove(entry[0])

    def _failure(self) -> str:
        """Failure that another rank reported in one of the current contexts; '' if none."""
        failures = self._messenger.failures
        return next((failures[number] for number, _ in self._contexts if number in failures), '')

    def _stop_together(self, stopped: Stopped, numbers: list[int]) -> None:
        """Stop all ranks after a signal to this one, and set its exit status.

        A launcher may kill the remaining ranks when one has a nonzero status, and then reports
        that they were killed. So the others exit with 0, and rank 0 after them with the status of
        the signal, e.g. 75.
        """
        if getattr(stopped, 'is_known_to_all_ranks', False):
            return
        text = f'{_STOPPED}{stopped.name}'
        if ' on rank ' not in text:
            text += f' on rank {self.rank}'
        if any(self._messenger.publish(number, text, _DELIVERY) for number in numbers):
            stopped.is_known_to_all_ranks = True  # type: ignore[attr-defined]
            stopped.code = 0 if self.rank else status_of(stopped.name)
            self.wait_to_be_last()

    def wait_to_be_last(self) -> None:
        """On rank 0 of a run that stops after a signal, wait until the others have exited."""
        if self.rank == 0 and self._messenger.wait_until_left(_WAIT_FOR_EXIT):
            time.sleep(2 * POLL)  # they are about to

    def leave(self, name: str) -> int:
        """Stop all ranks because a signal ends this one while its main thread cannot react.

        Args:
            name (str): Name of the signal.

        Returns:
            int: Exit status of this process.
        """
        stopped = Stopped(name)
        self._stop_together(stopped, [number for number, _ in reversed(self._contexts)])
        self.stop()
        return int(stopped.code or 0)

    def stop(self) -> None:
        """Report that this rank has exited; at the latest when its interpreter shuts down."""
        messenger = self._messenger
        messenger.ending.set()
        messenger.join(3 * POLL)
        if self.rank == 0 and not messenger.broken and not agent_holds_store():
            time.sleep(2 * POLL)  # the store exits with this process, and others still read it

    # ---- the guard thread ------------------------------------------------------------------

    def _is_working(self) -> bool:
        return not self._steps_needed or time.monotonic() - self._last_step < max(self.limit, 60.0)

    def _guard(self) -> None:
        looked, overdue = time.monotonic(), 0.0
        while not self._messenger.ending.wait(POLL):
            now = time.monotonic()
            passed = min(now - looked, 4 * POLL)  # more if this process was suspended
            looked = now
            self._liveness.update(passed)
            failure = self._failure()
            lost = self._liveness.lost() if self._contexts else ''
            overdue = overdue + passed if failure or lost else 0.0
            if overdue > _OWN_ERROR:
                self._abort(failure or lost)

    def _abort(self, reason: str) -> None:
        """Print the reason and exit, although the main thread may be uninterruptible."""
        contexts = list(self._contexts)
        if not contexts:  # the main thread has just left it
            return
        failure, name = self._failure(), signals.received()
        status = 1
        if failure.startswith(_STOPPED):
            name = failure[len(_STOPPED) :]
            status = 0 if self.rank else status_of(name)
        elif name:  # the loss of the other rank may be a consequence of the signal
            status = status_of(name)
        # The main thread may hold the lock of an output stream.
        late = threading.Timer(5.0 + (_WAIT_FOR_EXIT if status != 1 else 0), os._exit, (status,))
        late.daemon = True
        late.start()
        if not failure.startswith(_STOPPED) and (failure or not name):
            if not failure:
                reason = f'rank {self.rank}, {contexts[0][1]()}: {reason}'
            print(f'error: {_with_remedy(reason)}', file=sys.stderr, flush=True)
        if status != 1:
            print(signals.describe(name), file=sys.stderr, flush=True)
            self.wait_to_be_last()
            self.stop()
        sys.stdout.flush()
        logging.shutdown()
        os._exit(status)


def _got_no_answer(error: Exception) -> bool:
    """Whether an error is that of a collective without an answer, and not one of our own."""
    is_foreign = isinstance(error, RuntimeError) and not isinstance(error, UserError)
    return is_foreign and _NO_ANSWER.search(str(error)) is not None


def _with_remedy(reason: str) -> str:
    """Add what to do after a failure of another rank, unless the sentence already says so."""
    if re.search(r'resume|start again', reason):
        return reason
    return f'{reason.rstrip(". ")}. See its own output, then start again (training: with --resume)'
