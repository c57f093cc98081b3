"""Progress of tasks that take more than a few seconds, on rank 0."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Optional, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cotap_mm.distributed.collectives import rank

T = TypeVar('T')
_FIRST_LINE, _NEXT_LINE = 5.0, 30.0  # seconds


class Progress:
    """Show how much of a task is done: a bar in a terminal, else a line every 30 seconds.

    It is written to stderr, by rank 0 only. Use it as a context, or call :meth:`close`.

    Args:
        total (int): Number of items.
        what (str): Name of the task, such as ``'features'``.
        done (int): Items that are done already. Defaults to 0.
        show (bool): False for no output at all. Defaults to True.
    """

    def __init__(self, total: int, what: str, done: int = 0, show: bool = True) -> None:
        self.total, self.what, self.done = total, what, done
        self._start, self._start_done = time.monotonic(), done
        self._is_shown = show and rank() == 0 and done < total
        self._next_line = self._start + _FIRST_LINE
        self._bars: Optional[Bars] = None
        console = Console(stderr=True) if self._is_shown else None
        if console is not None and console.is_terminal:
            self._bars = Bars(
                TextColumn('{task.description}'),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bars.add_task(what, total=total, completed=done)
            self._bars.start()

    def update(self, count: int = 1, is_new: bool = True) -> None:
        """Record that further items are done.

        Args:
            count (int): Their number. Defaults to 1.
            is_new (bool): False for items of an earlier run, which took no time. Defaults to True.
        """
        self.done += count
        if not is_new:
            self._start_done += count
        if self._bars is not None:
            self._bars.update(self._task, completed=self.done)
        elif self._is_shown and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _NEXT_LINE
            print(self.describe(), file=sys.stderr, flush=True)

    def describe(self) -> str:
        """Return a line such as ``features: 1,024 of 118,287, about 6 min left``."""
        text = f'{self.what}: {self.done:,} of {self.total:,}'
        finished, missing = self.done - self._start_done, self.total - self.done
        if finished <= 0 or missing <= 0:
            return text
        seconds = (time.monotonic() - self._start) / finished * missing
        return f'{text}, about {_duration(seconds)} left'

    def close(self) -> None:
        """Remove the bar."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._is_shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def track(items: Iterable[T], total: int, what: str, show: bool = True) -> Iterator[T]:
    """Iterate over items, and show their progress.

    Args:
        items (iterable): The items.
        total (int): Their number.
        what (str): Name of the task.
        show (bool): False for no output at all. Defaults to True.
    """
    with Progress(total, what, show=show) as progress:
        for item in items:
            yield item
            progress.update()


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that a single long call is running, such as an export.

    Args:
        what (str): What is being done, such as ``'exporting to ONNX'``.
    """
    console = Console(stderr=True) if rank() == 0 else None
    if console is None or not console.is_terminal:
        yield
        return
    with console.status(f'{what} ...'):
        yield


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes / 60:.1f} h'
