"""Why a training stopped, for its user: one sentence instead of a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

import torch

from cotap_mm.error_text import of_worker
from cotap_mm.errors import UserError

_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|"
    r'unable to allocate|insufficient shared memory',
    re.IGNORECASE,
)


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
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
    ):
        return (
            'Lower train_dataloader.batch_size or num_workers, or set model.backbone.with_cp=True'
        )
    if isinstance(error, OSError):
        return 'Check that this file or address exists, may be used, and has room'
    return ''
