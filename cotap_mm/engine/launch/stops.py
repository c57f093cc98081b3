"""Report errors that stop a run in one sentence instead of a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, Optional

import torch
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner

from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.error_text import of_worker
from cotap_mm.errors import UserError

from .values import explained_options

_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|"
    r'unable to allocate|insufficient shared memory',
    re.IGNORECASE,
)


@contextmanager
def explained_stops(saved: Callable[[], str] = str) -> Iterator[None]:
    """Raise a :class:`UserError` instead of errors of disk, network or memory.

    Args:
        saved (callable): Returns from where the run can be continued, as a sentence without
            its period.

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
    """What the user can try; '' if the error is of another kind."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
    ):
        return (
            'Lower train_dataloader.batch_size or num_workers, or set model.backbone.with_cp=True'
        )
    if isinstance(error, OSError):
        return 'Check that this file or URL exists, is accessible, and that the disk has space'
    return ''


class _FirstStepHook(Hook):
    """Records that the first step has begun: a Runner builds its parts only when needed."""

    has_started = False

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.has_started = True

    before_val_iter = before_test_iter = before_train_iter


@contextmanager
def short_until_first_step(
    runner: Runner | FlexibleRunner, options: Optional[dict] = None
) -> Iterator[None]:
    """Report errors of parts that a Runner builds when it starts in one line.

    Errors after the first step has begun keep their traceback.

    Args:
        runner (Runner): Ready to train or test.
        options (dict, optional): Values of ``--cfg-options``, which may be the cause.
    """
    hook = _FirstStepHook()
    runner.register_hook(hook)

    def has_started() -> bool:
        return hook.has_started

    with report_user_errors(until=has_started), explained_options(options, has_started):
        yield


def is_before_first_step(runner: Runner | FlexibleRunner) -> bool:
    """Whether :func:`short_until_first_step` is active and no step has begun yet."""
    return any(isinstance(hook, _FirstStepHook) and not hook.has_started for hook in runner.hooks)
