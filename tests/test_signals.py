"""Signals stop a run whatever the main thread does, and a second one exits at once."""

from __future__ import annotations

import collections
import ctypes
import itertools
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cotap_mm import signals
from cotap_mm.datasets import workers
from cotap_mm.datasets.workers import keep_workers
from tests.helpers.faults import time_limit

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='signals of POSIX')


def in_child(act):
    """Fork a process that runs ``act(report)``; returns its id and the pipe of its output."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            act(lambda text: os.write(write, f'{text}\n'.encode()))
            status = 0
        except SystemExit as stopped:
            status = stopped.code
        finally:
            os._exit(status)
    os.close(write)
    return pid, read


def result(pid, read):
    _, status = os.waitpid(pid, 0)
    with os.fdopen(read) as file:
        return os.waitstatus_to_exitcode(status), file.read()


def read_line(read):
    return os.read(read, 100).decode()


def test_a_signal_interrupts_where_nothing_can_be_lost():
    with signals.listening():
        with pytest.raises(signals.Stopped, match='SIGTERM: stopped with status 75. Nothing had'):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        assert signals.received() == 'SIGTERM'
        with pytest.raises(signals.Stopped):
            signals.sleep(60)
    assert signals.received() == '' and not signals.is_listening()
    assert threading.active_count() == 1 or 'signals' not in [
        thread.name for thread in threading.enumerate()
    ]


def test_advice_of_an_earlier_run_is_forgotten():
    signals.set_advice(lambda: 'The last checkpoint is that of another run')
    with signals.listening(), pytest.raises(signals.Stopped, match='Nothing had to be saved'):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_a_step_is_not_interrupted():
    with signals.listening(['SIGUSR1']), signals.deferred():
        os.kill(os.getpid(), signal.SIGUSR1)
        signals.sleep(0)
        signals.check()
        assert signals.received() == 'SIGUSR1'
        with signals.interruptible(alone=False):  # with other ranks, which would wait
            signals.check()
        with pytest.raises(signals.Stopped), signals.interruptible():
            time.sleep(60)
        assert signals.is_deferred()


def test_previous_handlers_are_restored():
    names = [*signals.SIGNALS, 'SIGHUP']
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    with signals.listening(), signals.listening(['SIGTERM', 'SIGHUP']):
        assert signal.getsignal(signal.SIGHUP) is signal.getsignal(signal.SIGTERM)
    for name, handler in before.items():
        assert signal.getsignal(getattr(signal, name)) == handler


def test_nothing_happens_outside_of_the_main_thread():
    states = []

    def listen():
        with signals.listening():
            states.append(signals.is_listening())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert states == [False]


@pytest.mark.slow
@pytest.mark.parametrize(
    'second, status', [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGUSR1, None)]
)
def test_a_second_signal_exits_at_once(second, status):
    """A different one does; the same within three seconds does not, as launchers send it twice."""

    def act(report):
        with signals.listening(), signals.deferred():
            report('ready')
            threading.Event().wait(4)
            report(signals.received())

    pid, read = in_child(act)
    assert read_line(read) == 'ready\n'
    os.kill(pid, signal.SIGUSR1)
    time.sleep(0.5)
    os.kill(pid, second)
    assert result(pid, read) == ((status, '') if status else (0, 'SIGUSR1\n'))


@pytest.mark.parametrize('pauses, status', [((0.1, 0.7), 130), ((0.1,), 0)])
def test_a_second_ctrl_c_exits_at_once(pauses, status):
    def act(report):
        os.dup2(write_end, 2)
        with signals.listening(signals.TRAINING_SIGNALS, to_the_end=True), signals.deferred():
            report('ready')
            threading.Event().wait(1)
            report(signals.received())

    read_end, write_end = os.pipe()
    pid, read = in_child(act)
    os.close(write_end)
    assert read_line(read) == 'ready\n'
    for pause in (0, *pauses):
        time.sleep(pause)
        os.kill(pid, signal.SIGINT)
    assert result(pid, read) == (status, '' if status else 'SIGINT\n')
    with os.fdopen(read_end) as file:
        said = file.read().splitlines()
    assert said[0] == 'Ctrl-C: stopping after this step; press it again to stop at once'
    assert said[1:] == (
        ['Ctrl-C again: exited without saving; older checkpoints are kept'] if status else []
    )


def test_a_second_ctrl_c_is_an_exception_where_the_process_goes_on(monkeypatch):
    """The kernel of a notebook must survive it, whatever it waits for."""
    monkeypatch.setattr(signals, 'PATIENCE', 0.2)
    pid = os.getpid()
    with signals.listening(signals.TRAINING_SIGNALS), signals.deferred():
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGINT)  # a repeat of the same
        assert signals.received() == 'SIGINT'
        with signals.interruptible(alone=False):
            time.sleep(0.9)
        with pytest.raises(KeyboardInterrupt, match='nothing was saved after the first Ctrl-C'):
            os.kill(pid, signal.SIGINT)
            time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_ctrl_c_ends_a_finished_run():
    def act(report):
        with signals.listening(signals.TRAINING_SIGNALS, to_the_end=True):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        report('alive')
        os.kill(os.getpid(), signal.SIGINT)

    assert result(*in_child(act)) == (-signal.SIGINT, 'alive\n')


def is_in_c(pid):
    """Wait until the main thread is in :func:`wait_in_c`; returns whether it is."""

    def sleeps():
        lines = Path(f'/proc/{pid}/status').read_text().splitlines()
        return int(next(line for line in lines if line.startswith('voluntary')).split()[1])

    before, end = sleeps(), time.monotonic() + 30
    while sleeps() < before + 8 and time.monotonic() < end:
        time.sleep(0.1)
    return time.monotonic() < end


def wait_in_c():
    """Block like a barrier: no bytecode runs, so the Python handler is not called."""
    collections.deque(map(ctypes.CDLL(None).usleep, itertools.repeat(100_000, 600)), maxlen=0)


@pytest.mark.slow
@pytest.mark.parametrize('alone', [True, False])
def test_the_process_exits_if_its_main_thread_cannot_react(monkeypatch, alone):
    """It is in a C function, or other ranks would wait for it."""
    monkeypatch.setattr(signals, 'PATIENCE', 1.0)

    def act(report):
        os.dup2(write_end, 2)
        with signals.listening(), signals.deferred():
            signals.set_advice(lambda: 'The last checkpoint is x')
            with signals.interruptible(alone):
                report('ready')
                wait_in_c()

    read_end, write_end = os.pipe()
    pid, read = in_child(act)
    os.close(write_end)
    assert read_line(read) == 'ready\n' and is_in_c(pid)
    os.kill(pid, signal.SIGTERM)
    assert result(pid, read)[0] == 75
    with os.fdopen(read_end) as file:
        assert file.read() == 'SIGTERM: stopped with status 75. The last checkpoint is x\n'


@pytest.mark.slow
def test_children_that_are_not_loader_workers_obey_sigterm():
    """A Pool, as in metrics of MMDetection, waits for processes that it has terminated."""
    keep_workers(True)
    try:
        with time_limit(30), signals.listening():
            for _ in range(5):
                with multiprocessing.get_context('fork').Pool(6) as pool:
                    assert pool.map(abs, [-1, -2]) == [1, 2]
    finally:
        keep_workers(False)


def test_sigterm_before_a_child_is_set_up_is_not_lost():
    """It arrives between the fork and the first line that the child runs."""
    pid = os.fork()
    if pid == 0:
        try:
            signals._state.handlers_before = {signal.SIGTERM: signal.SIG_DFL}
            signals._before_fork()
            os.kill(os.getpid(), signal.SIGTERM)  # pending, since it is held back
            signals._in_child()
        finally:
            os._exit(3)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM


@pytest.mark.slow
def test_a_forked_worker_ignores_stop_signals(monkeypatch):
    """From the moment of the fork, before it runs any code."""
    read, write = os.pipe()

    def loop():
        os.write(write, b'ready\n')
        time.sleep(1.5)
        os.write(write, f'{signals.is_listening()} {signals.received()!r}'.encode())

    monkeypatch.setattr(workers, '_worker_loop', loop)
    keep_workers(True)
    try:
        with signals.listening():
            for is_early in (True, False):
                worker = multiprocessing.get_context('fork').Process(target=loop)
                worker.start()
                if not is_early:
                    assert read_line(read) == 'ready\n'
                os.kill(worker.pid, signal.SIGTERM)
                os.kill(worker.pid, signal.SIGUSR1)
                worker.join(30)
                assert worker.exitcode == 0
                assert read_line(read) == ('ready\n' if is_early else '') + "False ''"
            assert signals.received() == ''
    finally:
        keep_workers(False)
        os.close(read), os.close(write)


def test_a_stop_that_was_replaced_by_an_error_is_restored():
    """MMEngine formats a config within a bare ``except``, and raises a SyntaxError instead."""
    with pytest.raises(signals.Stopped, match='SIGTERM'), signals.restored():
        try:
            raise signals.Stopped('SIGTERM')
        except:  # noqa: E722
            raise SyntaxError('Failed to format the config file') from ValueError('x')
    with pytest.raises(SyntaxError, match='another one'), signals.restored():
        raise SyntaxError('another one')


def test_causes_of_an_error_may_form_a_cycle():
    one, other = OSError('one'), ValueError('other')
    one.__cause__, other.__context__ = other, one
    with pytest.raises(OSError, match='one'), signals.restored():
        raise one
