"""Notice a rank that died, was stopped or failed, whatever the other ranks are waiting for."""

from __future__ import annotations

import atexit
import faulthandler
import itertools
import logging
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Callable, TypeVar

import torch
import torch.distributed as dist

from cotap_mm import signals
from cotap_mm.errors import UserError
from cotap_mm.signals import EXIT_STATUS, Stopped

from .collectives import rank, world_size
from .messenger import LEFT, POLL, Messenger, agent_holds_store

#: Environment variable with the seconds after which a wait for another rank gives up.
TIMEOUT = 'COTAP_DIST_TIMEOUT'

# What gloo, NCCL and torch say when a collective has no answer.
_NO_ANSWER = re.compile(
    r'timed out|timeout|connection (closed|reset|refused|was likely closed)|broken pipe|'
    r'communicator was aborted|socket|remote process exited|no response',
    re.IGNORECASE,
)
T = TypeVar('T')
_SHORTEST = 10.0  # seconds of silence that a busy machine may need, whatever the time-out
_BROKEN = 10.0  # seconds to finish after the connection to the store has closed
_OWN_ERROR = 2.0  # seconds to end by itself after another rank was lost or has failed
_HEARD = 10.0  # seconds that a rank which fails waits until the others know
_ALL_LEFT = 10.0  # seconds that rank 0 waits in a stop until the others have ended
_ANSWER = 5.0  # seconds for the others to say that they wait as well
_EXIT = 60.0  # seconds for the interpreter to shut down
_STOPPED = 'stopped by '  # begins what is told of a rank that a signal stops
_numbers = itertools.count()  # all ranks enter the same contexts in the same order


class LostRank(UserError):
    """Another rank died, was stopped, hangs or failed."""


def timeout_of(config_timeout: float) -> float:
    """Seconds after which a collective gives up: ``COTAP_DIST_TIMEOUT``, else the config's.

    Raises:
        ValueError: If the variable is not a positive number.
    """
    given = os.environ.get(TIMEOUT)
    if not given:
        return config_timeout
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise ValueError(f'{TIMEOUT} must be a positive number of seconds, got {given!r}')
    return seconds


def limit_of(timeout: float) -> float:
    """Seconds without a sign of life after which a rank or a loader's worker counts as lost.

    Less than the time-out, so that the reason is known before collectives give up.
    """
    return max(0.8 * timeout, _SHORTEST)


class RankWatch:
    """What this process knows of the other ranks; one for each process group.

    Every rank leaves signs of life in the store of the process group. A rank without one for
    most of the time-out is lost: :meth:`check` says so to a process that polls, and one that
    is in a collective, or anything else that cannot be interrupted, is ended with the same
    sentence, if it is in a context of :func:`abort_all_ranks_on_error`. Time in which this process
    itself was stopped does not count.

    Args:
        rank (int): Of this process.
        size (int): Number of ranks.
        timeout (float): Seconds after which waiting for a rank ends.
    """

    def __init__(self, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.limit = limit_of(timeout)
        self._messenger = Messenger(rank, size, timeout, self.limit / 20)
        self._messenger.is_working = self._is_working
        self._contexts: list[tuple[int, Callable[[], str]]] = []
        self._steps_needed = 0
        self._last_step = time.monotonic()
        self._silence = [0.0] * size
        self._store_silence = 0.0
        self._seen: tuple[int, list[int]] = (0, [0] * size)
        self._messenger.start()
        threading.Thread(target=self._guard, name='rank watch: guard', daemon=True).start()

    def lost(self) -> str:
        """A clause on the ranks that give no sign of life; '' if all do."""
        beats = self._messenger.beats
        if beats[0] < LEFT:
            limit = min(_BROKEN, self.limit) if self._messenger.broken else self.limit
            if self._store_silence > limit:
                return self.describe_store()
        return self.describe(
            [
                other
                for other, seconds in enumerate(self._silence)
                if seconds > self.limit and beats[other] < LEFT
            ]
        )

    def describe(self, ranks: list[int]) -> str:
        """A clause on ranks that do not answer; '' if there are none."""
        if not ranks:
            return ''
        known = [
            f'{each}: {self._messenger.names[each]}'
            for each in ranks
            if self._messenger.names[each]
        ]
        verb = 'rank {} does' if len(ranks) == 1 else 'ranks {} do'
        return (
            f'{verb.format(", ".join(map(str, ranks)))} not answer: died (out of memory?) or '
            'hangs' + (f' ({", ".join(known)})' if known else '')
        )

    def describe_store(self) -> str:
        """The same where the store of the process group does not answer."""
        place = f'{os.environ["MASTER_ADDR"]}:{os.environ["MASTER_PORT"]}'
        if agent_holds_store():
            return (
                f'torchrun at {place}, which started rank 0 and holds the store of the run, '
                'does not answer: it or its machine died or was stopped'
            )
        return f'{self.describe([0])} (it holds the store of the run at {place})'

    def missing(self) -> str:
        """After a collective that failed: a clause on the ranks that do not wait as well."""
        others = [other for other in range(self.size) if other != self.rank]
        ask, end = self._messenger.ask, time.monotonic() + _ANSWER
        if ask(lambda store: store.set(f'waits/{self.rank}', '1') or True, _ANSWER) is None:
            return self.describe_store()
        while others and time.monotonic() < end:
            found = ask(
                lambda store: [other for other in others if not store.check([f'waits/{other}'])],  # noqa: B023
                _ANSWER,
            )
            if found is None:
                return self.describe_store()
            others = found
            time.sleep(0.2)
        return (
            self.describe(others)
            or 'the connection to another rank was lost, and all of them answer'
        )

    def failure(self) -> str:
        """What another rank said of its failure, in a context that this process is in; or ''."""
        failures = self._messenger.failures
        return next((failures[number] for number, _ in self._contexts if number in failures), '')

    def check(self, must_stay: bool = False) -> None:
        """For a loop that waits for other ranks.

        Args:
            must_stay (bool): Whether a rank that has ended is missed. Defaults to False.

        Raises:
            LostRank: If one of them failed or gives no sign of life.
            Stopped: If a signal has stopped one of them.
        """
        self.step()
        if self.failure().startswith(_STOPPED):
            raise Stopped(self.failure()[len(_STOPPED) :])
        gone = [other for other, beat in enumerate(self._messenger.beats) if beat >= LEFT]
        reason = (
            self.failure()
            or self.lost()
            or (f'rank {gone[0]} has ended before the others' if must_stay and gone else '')
        )
        if reason:
            raise LostRank(with_way_out(f'rank {self.rank}: {reason}'))

    def step(self) -> None:
        """This process makes progress; see :meth:`steps_needed`."""
        self._last_step = time.monotonic()

    @contextmanager
    def steps_needed(self) -> Iterator[None]:
        """In this context the signs of life stop where :meth:`step` is not called for long."""
        self.step()
        self._steps_needed += 1
        try:
            yield
        finally:
            self._steps_needed -= 1

    @contextmanager
    def context(self, where: Callable[[], str], advice: str) -> Iterator[None]:
        """What :func:`abort_all_ranks_on_error` does."""
        entry = (next(_numbers), where)
        self._contexts.append(entry)
        self._messenger.listening.append(entry[0])
        try:
            with signals.restored():
                yield
        except Stopped as stopped:
            self._forget(entry)
            self._stop_together(stopped, [entry[0]])
            raise
        except Exception as error:
            is_own = isinstance(error, UserError) or not (
                isinstance(error, RuntimeError) and _NO_ANSWER.search(str(error))
            )
            if not is_own and self.failure():
                self._end(self.failure())
            # From here on this rank ends by its own error.
            self._forget(entry)
            if not is_own and signals.received():  # as the others do
                stopped = Stopped(signals.received())
                self._stop_together(stopped, [entry[0]])
                raise stopped from error
            if not is_own:
                reason = str(error).strip().splitlines()[0][:200]
                raise LostRank(
                    f'rank {self.rank}, {where()}: {self.missing()}. Its own output, '
                    f'or the log of its machine, says more{advice} '
                    f'({reason})'
                ) from error
            if not getattr(error, 'is_known_to_all_ranks', isinstance(error, LostRank)):
                self._messenger.tell(
                    entry[0], f'process {self.rank} failed, {type(error).__name__}: {error}', _HEARD
                )
                error.is_known_to_all_ranks = True  # type: ignore[attr-defined]
            raise
        finally:
            self._forget(entry)

    def _forget(self, entry: tuple[int, Callable[[], str]]) -> None:
        if entry in self._contexts:
            self._contexts.remove(entry)
            self._messenger.listening.remove(entry[0])

    def _stop_together(self, stopped: Stopped, numbers: list[int]) -> None:
        """Stop all ranks after a signal to this one, and set its exit status.

        A launcher may kill the ranks that are left when one has a bad status, and then reports
        that they were killed. So the others exit with 0, and rank 0 after them with 75.
        """
        if getattr(stopped, 'is_known_to_all_ranks', False):
            return
        text = f'{_STOPPED}{stopped.name}'
        if ' on rank ' not in text:
            text += f' on rank {self.rank}'
        if any(self._messenger.tell(number, text, _HEARD) for number in numbers):
            stopped.is_known_to_all_ranks = True  # type: ignore[attr-defined]
            stopped.code = 0 if self.rank else EXIT_STATUS
            self.wait_to_be_last()

    def wait_to_be_last(self) -> None:
        """On rank 0, where a run stops after a signal: wait until the others have ended."""
        if self.rank == 0 and self._messenger.wait_until_left(_ALL_LEFT):
            time.sleep(2 * POLL)  # they are about to

    def leave(self, name: str) -> int:
        """Stop all ranks, since a signal ends this one while its main thread cannot react.

        Args:
            name (str): The signal.

        Returns:
            int: Exit status of this process.
        """
        stopped = Stopped(name)
        self._stop_together(stopped, [number for number, _ in reversed(self._contexts)])
        self.stop()
        return int(stopped.code or 0)

    def stop(self) -> None:
        """Say that this rank has ended; at the latest when its interpreter shuts down."""
        messenger = self._messenger
        messenger.ending.set()
        messenger.join(3 * POLL)
        if self.rank == 0 and not messenger.broken and not agent_holds_store():
            time.sleep(2 * POLL)  # the store may go with this process, and others look into it

    def _is_working(self) -> bool:
        return not self._steps_needed or time.monotonic() - self._last_step < max(self.limit, 60.0)

    def _guard(self) -> None:
        looked, overdue = time.monotonic(), 0.0
        while not self._messenger.ending.wait(POLL):
            now = time.monotonic()
            passed = min(now - looked, 4 * POLL)  # more if this process was stopped
            looked = now
            self._listen(passed)
            failure, lost = self.failure(), self.lost() if self._contexts else ''
            overdue = overdue + passed if failure or lost else 0.0
            if overdue > _OWN_ERROR:
                self._end(failure or lost)

    def _listen(self, passed: float) -> None:
        rounds, beats = self._messenger.rounds, self._messenger.beats
        before, seen = self._seen
        if rounds == before:
            self._store_silence += passed
            return
        passed += min(self._store_silence, 4 * POLL)
        self._store_silence = 0.0
        self._seen = rounds, list(beats)
        self._silence = [
            0.0 if new != old or other == self.rank else seconds + passed
            for other, (old, new, seconds) in enumerate(zip(seen, beats, self._silence))
        ]

    def _end(self, reason: str) -> None:
        """End this process; its main thread may be where nothing can interrupt it."""
        contexts = list(self._contexts)
        if not contexts:  # it has just come out of it
            return
        failure, name = self.failure(), signals.received()
        status = 1
        if failure.startswith(_STOPPED):
            name, status = failure[len(_STOPPED) :], 0 if self.rank else EXIT_STATUS
        elif name:  # what happened to the other rank may follow from the signal
            status = EXIT_STATUS
        # Somebody may hold the lock of an output.
        late = threading.Timer(5.0 + (_ALL_LEFT if status != 1 else 0), os._exit, (status,))
        late.daemon = True
        late.start()
        if not failure.startswith(_STOPPED) and (failure or not name):
            if not failure:
                reason = f'rank {self.rank}, {contexts[0][1]()}: {reason}'
            print(f'error: {with_way_out(reason)}', file=sys.stderr, flush=True)
        if status != 1:
            print(signals.describe(name), file=sys.stderr, flush=True)
            self.wait_to_be_last()
            self.stop()
        sys.stdout.flush()
        logging.shutdown()
        os._exit(status)


def with_way_out(reason: str) -> str:
    """What to do where another rank failed, unless its sentence says so."""
    if re.search(r'resume|start again', reason):
        return reason
    return (
        f'{reason.rstrip(". ")}. See its own output, then start again (a training: with --resume)'
    )


def within(seconds: float, work: Callable[[], T]) -> T:
    """``work()``, given up after some seconds, though it may know no time-out itself.

    Raises:
        TimeoutError: If it takes longer; it then goes on until the process ends.
    """
    found: queue.Queue = queue.Queue(1)

    def run() -> None:
        try:
            found.put((work(), None))
        except BaseException as error:
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f'no answer within {seconds:.0f} s') from None
    if error is not None:
        raise error
    return result


def _exit_within(seconds: float) -> None:
    """Let the process end after that time, even without a working interpreter."""
    quiet = open(os.devnull, 'w')
    faulthandler.dump_traceback_later(seconds, exit=True, file=quiet)


_watch: tuple[Any, RankWatch] | None = None


def start_watch(rank: int, size: int, timeout: float) -> RankWatch | None:
    """Watch the other ranks from now on, and let them watch this one.

    Needs the store at ``MASTER_ADDR`` and ``MASTER_PORT``, as all launchers set them.

    Args:
        rank (int): Of this process.
        size (int): Number of ranks.
        timeout (float): Seconds after which waiting for a rank ends.

    Returns:
        RankWatch, optional: None without such a store.
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
    signals.set_farewell(_leave)
    return _watch[1]


def _stop_watch() -> None:
    if _watch is not None and _watch[0][-1] == os.getpid():
        _exit_within(_EXIT)  # a lost rank can hang the shutdown as well
        _watch[1].stop()


def _leave(name: str) -> int:
    """Exit status of a process that a signal ends; see :meth:`RankWatch.leave`."""
    if _watch is None or _watch[0][-1] != os.getpid():
        return EXIT_STATUS
    return _watch[1].leave(name)


def current_watch() -> RankWatch | None:
    """The watch of the process group; None for a single process."""
    if world_size() == 1:
        return None
    return start_watch(rank(), world_size(), timeout_of(_timeout_of_group()))


def silence_limit() -> float:
    """Seconds without a sign of life after which something that is waited for counts as lost."""
    watch = current_watch()
    return limit_of(timeout_of(1800)) if watch is None else watch.limit


def show_progress() -> None:
    """Tell the watch, if there is one, that this process does not hang."""
    watch = current_watch()
    if watch is not None:
        watch.step()


def _timeout_of_group() -> float:
    try:
        group = dist.distributed_c10d._get_default_group()
        device = torch.device('cuda' if dist.get_backend() == 'nccl' else 'cpu')
        return float(group._get_backend(device).options._timeout.total_seconds())
    except (AttributeError, RuntimeError):  # PyTorch keeps it elsewhere
        return 1800.0


@contextmanager
def abort_all_ranks_on_error(
    where: Callable[[], str] = lambda: 'waiting for the others',
    advice: str = '; start again, a training with --resume',
    watch: RankWatch | None = None,
) -> Iterator[None]:
    """End all ranks if one of them raises an error in this context, dies or is stopped.

    The rank that fails raises its error. The others may be in a collective that cannot be
    interrupted: they print what happened and exit with status 1. After a signal to one of them
    they print that instead and exit with status 0, and rank 0 after them with 75. Without a
    process group nothing happens here.

    A rank whose main thread hangs is noticed where a collective with it reaches its time-out.

    Args:
        where (callable): How far this process is, for the message.
        advice (str): Added to the message where a rank is lost.
        watch (RankWatch, optional): Where there is no process group yet. Defaults to that of
            the process group.

    Raises:
        LostRank: Instead of the failure of a collective, with the ranks that do not answer.
    """
    watch = watch or current_watch()
    with nullcontext() if watch is None else watch.context(where, advice):
        yield
