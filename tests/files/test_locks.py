"""Locks: one holder, which others can name, released when its process exits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from cotap_mm.errors import UserError
from cotap_mm.files.locks import Lock, Locked, acquire_lock, locked

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs POSIX record locks')
FORK = multiprocessing.get_context('fork') if hasattr(os, 'fork') else None


def hold(path, pipe):
    acquire_lock(path, 'training', 'wait')
    child = os.fork()
    if not child:  # like a loader worker, which may outlive it
        time.sleep(60)
        os._exit(0)
    pipe.send(child)
    time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    pipe, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=hold, args=(tmp_path / 'run.lock', sender))
    process.start()
    child = pipe.recv()
    yield process
    os.kill(child, signal.SIGKILL)
    process.kill()
    process.join()


def test_names_the_holder_and_is_released_with_it(tmp_path, holder):
    with pytest.raises(
        Locked,
        match=f'{tmp_path} is in use by process {holder.pid} on .* '
        r'\(training, since .*\); use another --work-dir',
    ) as caught:
        acquire_lock(tmp_path / 'run.lock', 'training', 'use another --work-dir')
    assert isinstance(caught.value, UserError)
    holder.kill()
    holder.join()
    lock = acquire_lock(tmp_path / 'run.lock', 'training', '')  # although its child is alive
    lock.release()
    assert not (tmp_path / 'run.lock').exists()


@pytest.mark.slow
def test_waits_for_the_holder(tmp_path, holder, monkeypatch):
    messages, start = [], time.monotonic()
    monkeypatch.setattr('mmengine.logging.print_log', lambda text, **_: messages.append(text))

    def check():
        if time.monotonic() > start + 1:
            holder.kill()

    with locked(tmp_path / 'run.lock', 'packing images', check):
        assert not holder.is_alive()
    assert len(messages) == 1 and messages[0].startswith(
        f'packing images: waiting for process {holder.pid} on '
    )


def test_a_process_may_lock_twice(tmp_path):
    path = tmp_path / 'run.lock'
    first, second = (acquire_lock(path, 'training', '') for _ in range(2))
    assert first is second
    first.release()
    assert not FORK.Pool(1).apply(_is_free, (path,))
    second.release()
    assert FORK.Pool(1).apply(_is_free, (path,))


def _is_free(path):
    lock = Lock(path, 'test')
    taken = lock._handle < 0 and lock.acquire()
    lock.release()
    return taken
