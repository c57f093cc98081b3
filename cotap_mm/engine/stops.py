"""Why a training stopped, for its user: one sentence instead of a traceback."""
from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager
from typing import Callable, Iterator

import torch

from cotap_mm import signals
from cotap_mm.error_text import of_worker
from cotap_mm.errors import UserError

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|"
                        r'unable to allocate|insufficient shared memory', re.IGNORECASE)
_INTERRUPTED = 130  # exit status after Ctrl-C: 128 + SIGINT


@contextmanager
def explained_stops(saved: Callable[[], str] = str) -> Iterator[None]:
    """Raise a :class:`UserError` in place of an error of the machine: disk, network, memory.

    Args:
        saved (callable): Where the run can be continued, as a sentence without its period.

    Raises:
        UserError: With what failed, what to try, and what is saved.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, MemoryError, RuntimeError) as error:
        remedy = _remedy(error)
        if not remedy:
            raise
        name = type(error).__name__
        reason = f'{name}: {of_worker(str(error), name)}'.rstrip(': .')
        raise UserError(f'{reason}. {remedy}. {saved()}'.strip('. ')) from error


def _remedy(error: BaseException) -> str:
    """What to do about it; '' for an error of another kind."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
            isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return ('Lower train_dataloader.batch_size or num_workers, or set '
                'model.backbone.with_cp=True')
    if isinstance(error, OSError):
        return 'Check that this file or address exists, may be used, and has room'
    return ''


@contextmanager
def short_stops() -> Iterator[None]:
    """End the program in one sentence where its user has to act, a signal came, or Ctrl-C.

    With the environment variable ``COTAP_TRACEBACK`` set, errors stay as they are.

    Raises:
        SystemExit: With status 1, 75 or 130.
    """
    try:
        with explained_stops():
            yield
    except signals.Stopped as stopped:
        print(stopped, file=sys.stderr)
        raise
    except KeyboardInterrupt:
        if os.environ.get('COTAP_TRACEBACK'):
            raise
        print('interrupted; --resume continues from the last checkpoint', file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except UserError as error:
        if os.environ.get('COTAP_TRACEBACK'):
            raise
        sys.exit(f'error: {error}\n(COTAP_TRACEBACK=1 shows where)')
