"""Where one process fails, the others end too, with its sentence, instead of waiting for it."""
from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import Any, Iterator

from cotap_mm.ops import rank, world_size

_POLL = 0.5  # seconds
_PATIENCE = 10.0  # seconds that a process which fails waits for the others to hear of it
_numbers = itertools.count()  # all ranks enter the same contexts in the same order


@contextmanager
def ended_together() -> Iterator[None]:
    """End all ranks if one of them raises an error in this context.

    The rank that fails raises its error. The others may be in a collective that will never
    end and cannot be interrupted: they print what happened and exit with status 1. Without
    a process group nothing happens here.

    A rank that stalls without an error is not noticed; the time-out of the process group is
    there for that.
    """
    if world_size() == 1:
        yield
        return
    note = _Note(next(_numbers))
    done = threading.Event()
    listener = threading.Thread(target=_listen, args=(note, done), daemon=True)
    listener.start()
    try:
        yield
    except Exception as error:
        done.set()
        if not getattr(error, 'is_known_to_all_ranks', False):
            note.write(f'{type(error).__name__}: {error}')
            error.is_known_to_all_ranks = True  # type: ignore[attr-defined]
        raise
    finally:
        done.set()
        listener.join()


class _Note:
    """A sentence in the store of the process group, and how many ranks know of it."""

    def __init__(self, number: int) -> None:
        from torch.distributed.distributed_c10d import _get_default_store
        self.store: Any = _get_default_store()
        self.name = f'cotap_mm/failure/{number}'

    def write(self, sentence: str) -> None:
        """Tell the others, and wait a little until they have heard."""
        self.store.set(self.name, f'process {rank()} failed, {sentence}')
        end = time.monotonic() + _PATIENCE
        known = self.store.add(f'{self.name}/known', 1)
        while known < world_size() and time.monotonic() < end:
            time.sleep(_POLL / 5)
            known = self.store.add(f'{self.name}/known', 0)

    def read(self) -> str:
        """What another rank wrote, '' if there is nothing."""
        if not self.store.check([self.name]):
            return ''
        sentence = self.store.get(self.name).decode()
        self.store.add(f'{self.name}/known', 1)
        return sentence


def _listen(note: _Note, done: threading.Event) -> None:
    while not done.wait(_POLL):
        try:
            sentence = note.read()
        except RuntimeError as error:  # the process that held the store is gone
            sentence = f'the first process cannot be reached any more ({error})'
        if sentence and not done.is_set():
            print(f'error: {sentence}', file=sys.stderr, flush=True)
            sys.stdout.flush()
            logging.shutdown()
            os._exit(1)
