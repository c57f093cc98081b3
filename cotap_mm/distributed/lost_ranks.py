"""Identify the rank that died or hung when a collective of a training fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from .failures import TIMEOUT, LostRank, RankWatch, ended_together, timeout_of

__all__ = ['TIMEOUT', 'LostRank', 'explained_losses', 'timeout_of']


@contextmanager
def explained_losses(
    iteration: Callable[[], int] | None = None, watch: RankWatch | None = None
) -> Iterator[None]:
    """End all ranks of a training where one of them fails, dies or hangs, and say which one.

    See :func:`cotap_mm.distributed.failures.ended_together`.

    Args:
        iteration (callable, optional): How far this process is. Defaults to None, before the
            training.
        watch (RankWatch, optional): Where there is no process group yet. Defaults to that of
            the process group.

    Raises:
        LostRank: Instead of the failure of a collective, with a sentence.
    """

    def where() -> str:
        return 'start-up' if iteration is None else f'iteration {iteration()}'

    with ended_together(where, '; --resume continues from the last checkpoint', watch):
        yield
