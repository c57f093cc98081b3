"""Handle signals that ask a run to stop, from its start to its exit.

Schedulers send SIGTERM or SIGUSR1 some time before they reclaim a machine. Within
:func:`listening`, the main thread raises :class:`Stopped` on such a signal, whatever it is doing,
and the command exits with status 75. A training step must not be interrupted: within
:func:`deferred` the signal is only recorded, and :class:`cotap_mm.engine.PreemptionHook` handles
it after the step. Within :func:`interruptible`, for waits and evaluations in a training, it takes
effect at once again.

A training treats Ctrl-C (SIGINT) in the same way, with status 130; other commands raise Python's
KeyboardInterrupt.

A thread watches the main thread, which does not react while it is in a C function, such as a
barrier. It exits the process after :data:`PATIENCE` seconds if nothing can be saved, and
immediately on a second signal.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable

#: Exit status of a run that was asked to stop and can be resumed (EX_TEMPFAIL of sysexits.h).
EXIT_STATUS = 75
#: Exit status after Ctrl-C.
INTERRUPTED = 128 + signal.SIGINT
#: Signals that ask a run to stop, as far as the system has them.
SIGNALS = tuple(name for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name))
#: Signals that a training handles: it saves before it stops, also after Ctrl-C.
TRAINING_SIGNALS = (*SIGNALS, 'SIGINT')
#: Seconds for the main thread to react if nothing can be saved.
PATIENCE = 10.0
#: Seconds within which repeats of the same signal are ignored: a scheduler signals all processes
#: of a job, and ``torchrun`` forwards the signal to processes that have received it already.
SAME_SIGNAL = 3.0
_SAME_KEY_PRESS = 0.5  # seconds; the same for Ctrl-C in a single process
_POLL = 0.5  # seconds


class Stopped(SystemExit):
    """A signal stops this run: one sentence, and exit status 75, or 130 after Ctrl-C.

    A SystemExit, so that no ``except Exception`` catches it.

    Args:
        name (str): Name of the signal, e.g. ``'SIGTERM'`` or ``'SIGINT on rank 1'``.
        advice (str, optional): What is saved and how to continue; see :func:`set_advice`.
    """

    def __init__(self, name: str, advice: str = '') -> None:
        super().__init__(status_of(name))
        self.name = name
        self.sentence = describe(name, advice)

    def __str__(self) -> str:
        return self.sentence


class _State:
    """Received signals and how the main thread reacts to them; one object per process."""

    def __init__(self) -> None:
        self.handlers_before: dict[int, Any] = {}
        self.wakeup_before = -1
        self.pipe: tuple[int, int] | None = None
        self.watcher: threading.Thread | None = None
        self.received = ''  # by the main thread
        self.noticed = ''  # by the watching thread, which C functions do not block
        self.received_at = 0.0
        self.raises = True  # whether a signal interrupts the main thread
        self.exits = False  # whether a signal ends the process instead
        self.is_command = True  # whether the process exits after a command; else Ctrl-C must not
        self.patience: float | None = PATIENCE  # seconds until forced exit; None: never
        self.since = 0.0  # when the current reaction was set
        self.advice: Callable[[], str] = _nothing_saved


def _nothing_saved() -> str:
    return 'Nothing had to be saved; start again with the same command'


_state = _State()
_exit_handlers: list[Callable[[str], int]] = []  # set by set_exit_handler
_child_handlers: list[Callable[[Any], Any]] = []  # set by on_fork
_masks = threading.local()  # signal mask of each thread before its fork


@contextmanager
def restored() -> Iterator[None]:
    """Raise :class:`Stopped` again if third-party code replaced it by an error of its own.

    A bare ``except`` catches it, such as the one around MMEngine's formatting of a config.

    Raises:
        Stopped: Instead of an error that was raised while a Stopped was handled.
    """
    try:
        yield
    except Exception as error:
        stopped = _find_stopped(error)
        if stopped is None:
            raise
        raise stopped from None


def _find_stopped(error: BaseException) -> Stopped | None:
    """Find the Stopped among the causes and contexts of an error, which may form a cycle."""
    links: list[BaseException | None] = [error]
    for link in links:
        if isinstance(link, Stopped):
            return link
        if link is not None:
            links += [
                other
                for other in (link.__cause__, link.__context__)
                if not any(other is known for known in links)
            ]
    return None


def status_of(name: str) -> int:
    """Exit status of a run that a signal stops: 130 after Ctrl-C, else 75.

    Args:
        name (str): Name of the signal, possibly followed by the rank that received it.
    """
    return INTERRUPTED if name.split(' ')[0] == 'SIGINT' else EXIT_STATUS


def received() -> str:
    """Name of the signal that asked this process to stop; '' if none."""
    return _state.received or _state.noticed


def is_listening() -> bool:
    """Whether :func:`listening` is active in this process."""
    return bool(_state.handlers_before)


def check() -> None:
    """Raise :class:`Stopped` if a signal has asked this process to stop.

    Call it in loops that wait. Nothing happens within :func:`deferred`, or within
    :func:`interruptible` on several ranks.
    """
    if _state.received and _state.raises:
        raise Stopped(_state.received)


def is_deferred() -> bool:
    """Whether signals are only recorded now; see :func:`deferred`."""
    return not _state.raises


def sleep(seconds: float) -> None:
    """Like :func:`time.sleep`, but interrupted by a signal if :func:`check` would raise.

    Raises:
        Stopped: If a signal has asked this process to stop.
    """
    end = time.monotonic() + seconds
    check()
    while time.monotonic() < end:
        time.sleep(max(min(_POLL, end - time.monotonic()), 0))
        check()


def describe(name: str, advice: str = '') -> str:
    """Describe for the user which signal came, what is saved, and how to continue.

    Args:
        name (str): Name of the signal.
        advice (str): Overrides the advice of :func:`set_advice`. Defaults to ''.
    """
    what = 'interrupted' if status_of(name) == INTERRUPTED else f'{name}: stopped with status 75'
    return f'{what}. {advice or _state.advice()}'


def set_advice(advice: Callable[[], str] | None) -> None:
    """Set the advice of :func:`describe` on saved work, e.g. the last checkpoint.

    Args:
        advice (callable, optional): Returns a sentence without its period. With None, the advice
            is that nothing had to be saved.
    """
    _state.advice = advice or _nothing_saved


def set_exit_handler(act: Callable[[str], int]) -> None:
    """Set a function to call before a forced exit, if the main thread does not react.

    Args:
        act (callable): Takes the name of the signal and returns the exit status. Called in
            another thread.
    """
    _exit_handlers[:] = [act]


def on_fork(choose_handler: Callable[[Any], Any]) -> None:
    """Set how processes that are forked while this one is listening react to SIGTERM.

    Args:
        choose_handler (callable): Takes the current frame of the child and returns the handler
            of SIGTERM, such as ``signal.SIG_DFL``.
    """
    _child_handlers[:] = [choose_handler]


@contextmanager
def listening(names: Sequence[str] = SIGNALS, to_the_end: bool = False) -> Iterator[None]:
    """Handle signals that ask this process to stop, within this context.

    Contexts may be nested: an inner one adds its signals. Nothing happens outside of the main
    thread, the only one that receives signals.

    Args:
        names (Sequence[str]): Names of signals. Defaults to :data:`SIGNALS`.
        to_the_end (bool): Whether the process exits after this context. If so, later signals are
            ignored, since they would change the status of a finished run, except Ctrl-C, which
            ends it without a traceback. Otherwise, as in a notebook, Ctrl-C never ends the
            process; a second one raises a KeyboardInterrupt. Defaults to False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in names]
    added = [number for number in numbers if number not in _state.handlers_before]
    is_outermost = not is_listening()
    if is_outermost:
        _start_watching()
        _state.is_command = to_the_end
    for number in added:
        _state.handlers_before[number] = signal.signal(number, _receive)
    try:
        yield
    finally:
        for number in added:
            after = _state.handlers_before.pop(number) or signal.SIG_DFL
            if to_the_end:
                after = signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN
            signal.signal(number, after)
        if is_outermost:
            _stop_watching()


@contextmanager
def handed_over() -> Iterator[None]:
    """Restore the handlers from before :func:`listening` within this context.

    For code that handles signals itself, such as ``torchrun``.
    """
    numbers = list(_state.handlers_before)
    for number in numbers:
        signal.signal(number, _state.handlers_before[number] or signal.SIG_DFL)
    wakeup = signal.set_wakeup_fd(_state.wakeup_before) if numbers else -1
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, _receive)
        if numbers:
            signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)


@contextmanager
def deferred() -> Iterator[None]:
    """Record signals for :func:`received`, without interrupting anything, within this context."""
    with _react(raises=False, patience=None):
        yield


@contextmanager
def interruptible(alone: bool = True) -> Iterator[None]:
    """Let signals take effect at once again, in a context within :func:`deferred`.

    Args:
        alone (bool): Whether :class:`Stopped` may be raised. With several ranks it must not,
            since the others would wait in a collective; then the context may finish within
            :data:`PATIENCE` seconds, after which the process exits. Defaults to True.
    """
    with _react(raises=alone, patience=PATIENCE):
        if alone:
            check()
        yield


@contextmanager
def exiting_at_once() -> Iterator[None]:
    """Let a signal end the process without an exception, within this context.

    While packages are imported nothing has to be saved, and any of them might catch the exception.
    """
    before = _state.exits
    try:
        _state.exits = True
        check()
        yield
    finally:
        _state.exits = before


@contextmanager
def _react(raises: bool, patience: float | None) -> Iterator[None]:
    before = _state.raises, _state.patience
    try:  # a signal may interrupt here already
        _state.since = time.monotonic()
        _state.raises, _state.patience = raises, patience
        yield
    finally:
        _state.since = time.monotonic()
        _state.raises, _state.patience = before


def _receive(number: int, frame: Any) -> None:
    """Signal handler; the watching thread counts the signals that follow."""
    if not _state.received:
        _state.received, _state.received_at = signal.Signals(number).name, time.monotonic()
        if _state.exits and not _is_forking():
            _exit(_state.received)
        # An exception in a hook of os.fork would only be printed.
        if _state.raises and not _is_forking():
            raise Stopped(_state.received)
    elif (
        number == signal.SIGINT
        and not _state.is_command
        and time.monotonic() - _state.received_at > _longest_repeat(number)
        and not _is_forking()
    ):
        raise KeyboardInterrupt('nothing was saved after the first Ctrl-C')


def _start_watching() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    _state.pipe, _state.received, _state.noticed = (read, write), '', ''
    set_advice(None)  # not that of an earlier run in this process
    # The interpreter writes to it, whatever the main thread is doing.
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
    """Watch the main thread: force the exit on a second signal or if it does not react."""
    first, first_at, is_exiting = 0, 0.0, False
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
                if number == signal.SIGINT and _state.patience is None:
                    _tell_user('Ctrl-C: stopping after this step; press it again to stop at once')
            elif number == signal.SIGINT and not _state.is_command:
                continue  # the main thread raises a KeyboardInterrupt
            elif number != first or time.monotonic() - first_at > _longest_repeat(number):
                if number == signal.SIGINT:
                    _tell_user('Ctrl-C again: exited without saving; older checkpoints are kept')
                os._exit(128 + number)
        patience = _state.patience
        if (
            first
            and not is_exiting
            and patience is not None
            and (_state.is_command or first != signal.SIGINT)
            and time.monotonic() - max(first_at, _state.since) > patience
        ):
            is_exiting = True  # in another thread, since a second signal may still come
            threading.Thread(target=_exit, args=(_state.noticed,), daemon=True).start()


def _longest_repeat(number: int) -> float:
    """Seconds within which a repeat of a signal is ignored."""
    is_alone = os.environ.get('WORLD_SIZE', '1') == '1'
    return _SAME_KEY_PRESS if number == signal.SIGINT and is_alone else SAME_SIGNAL


def _tell_user(text: str) -> None:
    """Print a line on rank 0, whatever the main thread is doing."""
    if os.environ.get('RANK', '0') == '0':
        os.write(2, f'{text}\n'.encode(errors='replace'))


def _exit(name: str) -> None:
    """Exit the process instead of its main thread."""
    status = status_of(name)
    try:
        if status == INTERRUPTED:
            _tell_user(describe(name))
        else:
            os.write(2, f'{describe(name)}\n'.encode(errors='replace'))
        for act in _exit_handlers:
            status = act(name)
    finally:
        os._exit(status)


def _before_fork() -> None:
    """Hold signals back: Python forgets those that a child receives before it is set up."""
    if _state.handlers_before:
        held = {getattr(signal, name) for name in TRAINING_SIGNALS}
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, held)


def _after_fork() -> None:
    """Deliver the signals that were held back."""
    if _is_forking():
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)
        _masks.before = None


def _is_forking() -> bool:
    return getattr(_masks, 'before', None) is not None


def _in_child() -> None:
    """Reset a forked process: the signal was not for it, and the pipe is not its own."""
    if _state.handlers_before:
        signal.set_wakeup_fd(-1)
        # A SIGTERM that is held back would be lost by ignoring it, even for a moment.
        for number in set(_state.handlers_before) - {signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)
        on_sigterm = signal.SIG_DFL
        if _child_handlers:
            on_sigterm = _child_handlers[0](sys._getframe())
        signal.signal(signal.SIGTERM, on_sigterm)
        _state.__init__()  # type: ignore[misc]
    _after_fork()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
