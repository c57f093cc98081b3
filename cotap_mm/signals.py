"""Signals that ask a run to stop, obeyed from its first second to its last.

Schedulers send SIGTERM or SIGUSR1 some time before they take a machine away. Within
:func:`listening`, the main thread raises :class:`Stopped` on such a signal, wherever it is, and
the command exits with status 75. A training step cannot be cut short: within :func:`deferred`
the signal is only noted, and :class:`cotap_mm.engine.PreemptionHook` looks at it after the step.
Within :func:`interruptible`, for waits and evaluations in a training, it is obeyed again.

A thread watches the main thread, which does not react while it is in a call of C, such as a
barrier: it exits the process after :data:`PATIENCE` seconds where nothing can be saved, and at
once on a second signal.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable

#: Exit status of a run that was asked to stop and can be resumed (EX_TEMPFAIL of sysexits.h).
EXIT_STATUS = 75
#: Signals that ask a run to stop, where this system has them.
SIGNALS = tuple(name for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name))
#: Seconds that the main thread has to react where nothing can be saved.
PATIENCE = 10.0
#: Seconds within which the same signal is not a second one: a scheduler signals all processes of
#: a job, and ``torchrun`` forwards what it gets to those that have it already.
SAME_SIGNAL = 3.0
_POLL = 0.5  # seconds


class Stopped(SystemExit):
    """A signal ends this run: exit status 75 and one sentence.

    A SystemExit, so that no ``except Exception`` takes it for something else.

    Args:
        name (str): The signal, e.g. ``'SIGTERM'``.
        advice (str, optional): What is saved and how to continue; see :func:`set_advice`.
    """

    def __init__(self, name: str, advice: str = '') -> None:
        super().__init__(EXIT_STATUS)
        self.name = name
        self.sentence = describe(name, advice)

    def __str__(self) -> str:
        return self.sentence


class _State:
    """What has been received, and what the main thread is doing; one for each process."""

    def __init__(self) -> None:
        self.handlers_before: dict[int, Any] = {}
        self.wakeup_before = -1
        self.pipe: tuple[int, int] | None = None
        self.watcher: threading.Thread | None = None
        self.received = ''  # by the main thread
        self.noticed = ''  # by the watching thread, which is not held up by calls of C
        self.received_at = 0.0
        self.raises = True  # whether a signal interrupts the main thread
        self.patience: float | None = PATIENCE  # seconds until the process is ended; None: never
        self.since = 0.0  # when the main thread began what it is doing
        self.advice: Callable[[], str] = _nothing_saved


def _nothing_saved() -> str:
    return 'Nothing had to be saved; start again with the same command'


_state = _State()
_farewell: list[Callable[[str], int]] = []  # what set_farewell has set
_in_children: list[Callable[[int, Any], None]] = []  # what SIGTERM does there, if anything


@contextmanager
def restored() -> Iterator[None]:
    """Raise :class:`Stopped` again where foreign code replaced it with an error of its own.

    A bare ``except`` catches it, such as the one that MMEngine puts around the formatting of a
    config.

    Raises:
        Stopped: In place of an error that was raised while a Stopped was handled.
    """
    try:
        yield
    except Exception as error:
        stopped = _stop_behind(error)
        if stopped is None:
            raise
        raise stopped from None


def _stop_behind(error: BaseException | None) -> Stopped | None:
    if error is None or isinstance(error, Stopped):
        return error
    return _stop_behind(error.__cause__) or _stop_behind(error.__context__)


def received() -> str:
    """Name of the signal that asked this process to stop; '' if there was none."""
    return _state.received or _state.noticed


def is_listening() -> bool:
    """Whether :func:`listening` is active in this process."""
    return bool(_state.handlers_before)


def check() -> None:
    """Raise :class:`Stopped` if a signal has asked this process to stop.

    For loops that wait. Within :func:`deferred`, and within :func:`interruptible` beside other
    ranks, nothing happens.
    """
    if _state.received and _state.raises:
        raise Stopped(_state.received)


def is_deferred() -> bool:
    """Whether a signal is only noted now; see :func:`deferred`."""
    return not _state.raises


def sleep(seconds: float) -> None:
    """Like :func:`time.sleep`, but a signal ends it where :func:`check` would raise.

    Raises:
        Stopped: If a signal has asked this process to stop.
    """
    end = time.monotonic() + seconds
    check()
    while time.monotonic() < end:
        time.sleep(max(min(_POLL, end - time.monotonic()), 0))
        check()


def describe(name: str, advice: str = '') -> str:
    """The sentences for the user: which signal, what is saved, how to continue.

    Args:
        name (str): The signal.
        advice (str): Instead of what :func:`set_advice` has set.
    """
    return f'{name}: stopped with status {EXIT_STATUS}. {advice or _state.advice()}'


def set_advice(advice: Callable[[], str] | None) -> None:
    """What :func:`describe` says about saved work, e.g. the last checkpoint.

    Args:
        advice (callable, optional): Returns a sentence without its period. Defaults to None,
            which says that nothing had to be saved.
    """
    _state.advice = advice or _nothing_saved


def set_farewell(act: Callable[[str], int]) -> None:
    """Set what is done before this process is ended while its main thread does not react.

    Args:
        act (callable): Takes the name of the signal and returns the exit status. Called in a
            thread.
    """
    _farewell[:] = [act]


def on_signal_in_child(handler: Callable[[int, Any], None]) -> None:
    """Set what SIGTERM does in processes that are forked while this one is listening.

    Args:
        handler (callable): A signal handler, set before the child runs anything.
    """
    _in_children[:] = [handler]


@contextmanager
def listening(names: Sequence[str] = SIGNALS, to_the_end: bool = False) -> Iterator[None]:
    """Obey signals that ask this process to stop, until the context ends.

    Contexts may be nested: an inner one adds its signals. Outside of the main thread, which
    alone receives signals, nothing happens.

    Args:
        names (Sequence[str]): Signals. Defaults to :data:`SIGNALS`.
        to_the_end (bool): Whether the process ends with this context. Then signals are ignored
            after it, which would change the status of a run that is over. Defaults to False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in names]
    added = [number for number in numbers if number not in _state.handlers_before]
    is_outermost = not is_listening()
    if is_outermost:
        _start_watching()
    for number in added:
        _state.handlers_before[number] = signal.signal(number, _receive)
    try:
        yield
    finally:
        for number in added:
            before = _state.handlers_before.pop(number) or signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if to_the_end else before)
        if is_outermost:
            _stop_watching()


@contextmanager
def deferred() -> Iterator[None]:
    """Within this context a signal is noted, for :func:`received`, and interrupts nothing."""
    with _doing(raises=False, patience=None):
        yield


@contextmanager
def interruptible(alone: bool = True) -> Iterator[None]:
    """Within this context, inside of :func:`deferred`, a signal is obeyed at once.

    Args:
        alone (bool): Whether this process may leave the context by :class:`Stopped`. One that
            shares it with other ranks may not, since they would wait in a collective; it
            may finish within :data:`PATIENCE` seconds, and the process exits after those.
    """
    with _doing(raises=alone, patience=PATIENCE):
        if alone:
            check()
        yield


@contextmanager
def _doing(raises: bool, patience: float | None) -> Iterator[None]:
    before = _state.raises, _state.patience
    try:  # a signal may interrupt here already
        _state.since = time.monotonic()
        _state.raises, _state.patience = raises, patience
        yield
    finally:
        _state.since = time.monotonic()
        _state.raises, _state.patience = before


def _receive(number: int, frame: Any) -> None:
    """The handler; the watching thread counts the signals that follow."""
    if not _state.received:
        _state.received, _state.received_at = signal.Signals(number).name, time.monotonic()
        if _state.raises:
            raise Stopped(_state.received)


def _start_watching() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    _state.pipe, _state.received, _state.noticed = (read, write), '', ''
    # Written to by the interpreter, whatever the main thread is doing.
    _state.wakeup_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    _state.watcher = threading.Thread(target=_watch, args=(read,), daemon=True, name='signals')
    _state.watcher.start()


def _stop_watching() -> None:
    assert _state.pipe is not None and _state.watcher is not None
    signal.set_wakeup_fd(_state.wakeup_before)
    os.write(_state.pipe[1], b'\0')
    _state.watcher.join()
    for end in _state.pipe:
        os.close(end)
    _state.pipe, _state.watcher, _state.received, _state.noticed = None, None, '', ''
    _state.raises, _state.patience = True, PATIENCE
    set_advice(None)


def _watch(pipe: int) -> None:
    """Until a 0 comes: end the process on a second signal, or where it does not react."""
    first, first_at, is_ending = 0, 0.0, False
    while True:
        ready = select.select([pipe], [], [], _POLL if first else None)[0]
        for number in os.read(pipe, 64) if ready else b'':
            if number == 0:
                return
            if number not in _state.handlers_before:  # e.g. SIGINT
                continue
            if not first:
                first, first_at = number, time.monotonic()
                _state.noticed = signal.Signals(number).name
            elif number != first or time.monotonic() - first_at > SAME_SIGNAL:
                os._exit(128 + number)
        patience = _state.patience
        if (
            first
            and not is_ending
            and patience is not None
            and time.monotonic() - max(first_at, _state.since) > patience
        ):
            is_ending = True  # in another thread, since a second signal may still come
            threading.Thread(target=_exit, args=(_state.noticed,), daemon=True).start()


def _exit(name: str) -> None:
    """End the process while its main thread cannot."""
    status = EXIT_STATUS
    try:
        os.write(2, f'{describe(name)}\n'.encode(errors='replace'))
        for act in _farewell:
            status = act(name)
    finally:
        os._exit(status)


def _in_child() -> None:
    """A forked process is not the one that was asked, and must not write into its pipe."""
    if not _state.handlers_before:
        return
    signal.set_wakeup_fd(-1)
    for number in _state.handlers_before:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _in_children[0] if _in_children else signal.SIG_DFL)
    _state.__init__()  # type: ignore[misc]


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_in_child)
