"""Identify the rank that died or hung when a collective of a training fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from .failures import TIMEOUT, LostRank, RankWatch, abort_all_ranks_on_error, timeout_of

__all__ = ['TIMEOUT', 'LostRank', 'report_unresponsive_ranks', 'timeout_of']


@contextmanager
def report_unresponsive_ranks(
    iteration: Callable[[], int] | None = None, watch: RankWatch | None = None
) -> Iterator[None]:
    """End all ranks of a training where one of them fails, dies or hangs, and say which one.

    See :func:`cotap_mm.distributed.failures.abort_all_ranks_on_error`.

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

    with abort_all_ranks_on_error(where, '; --resume continues from the last checkpoint', watch):
        yield
