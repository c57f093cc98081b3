"""Progress of tasks that take more than a few seconds, on rank 0."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Optional, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from cotap_mm.distributed.collectives import rank

T = TypeVar('T')
_FIRST_LINE, _NEXT_LINE, _NEXT_DRAWING = 5.0, 30.0, 0.25  # seconds


def in_notebook() -> bool:
    """Whether this process runs the cells of a notebook."""
    ipython = sys.modules.get('IPython')
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, 'kernel')


def is_interactive() -> bool:
    """Whether somebody watches the output: a notebook, or a terminal as stderr."""
    return in_notebook() or bool(sys.stderr and sys.stderr.isatty())


class Progress:
    """Show how much of a task is done, how long the rest will take, and a note.

    A terminal has a bar, a notebook one line that is redrawn, and any other output a line every
    30 seconds. It is written by rank 0 only, to stderr, in a notebook to stdout. Use it as a
    context, or call :meth:`close`::

        with Progress(1000, 'training') as progress:
            for step in range(1000):
                progress.update(note='loss 3.21')

    Args:
        total (int, optional): Number of items; None if it is unknown.
        what (str): Name of the task, such as ``'features'``.
        done (int): Items that are done already. Defaults to 0.
        show (bool, optional): False for no output at all; True to keep the last state on the
            screen, with the time that the task took. Defaults to None: a bar is removed at the
            end, and a short task leaves no line in a log.
    """

    def __init__(
        self, total: Optional[int], what: str, done: int = 0, show: Optional[bool] = None
    ) -> None:
        self.total, self.what, self.done, self.note = total, what, done, ''
        self._start, self._start_done = time.monotonic(), done
        self._is_shown = show is not False and rank() == 0 and (total is None or done < total)
        self._in_notebook = in_notebook()
        self._width = 0  # of the line in a notebook
        self._bars: Optional[Bars] = None
        console = Console(stderr=True) if self._is_shown and not self._in_notebook else None
        if console is not None and console.is_terminal:
            self._bars = Bars(
                BarColumn(16),
                TextColumn('{task.description}', markup=False),
                console=console,
                transient=not show,
                auto_refresh=False,  # no thread, whose locks a forked process would inherit
            )
            self._task = self._bars.add_task(self.describe(), total=total, completed=done)
            self._bars.start()
            console.show_cursor()  # which stays hidden if a second Ctrl-C ends the process
        is_live = self._in_notebook or self._bars is not None
        self._interval = _NEXT_DRAWING if is_live else _NEXT_LINE
        self._next = self._start + (0 if is_live else _FIRST_LINE)
        self._is_drawn_at_end = is_live or bool(show)
        self._drawn = done if self._bars is not None else -1

    @property
    def is_due(self) -> bool:
        """Whether the next :meth:`update` of one item draws, for notes that take time."""
        return self._is_due_at(self.done + 1)

    def update(self, count: int = 1, is_new: bool = True, note: Optional[str] = None) -> None:
        """Record that further items are done, and draw if it is time to.

        Args:
            count (int): Their number. Defaults to 1.
            is_new (bool): False for items of an earlier run, which took no time. Defaults to True.
            note (str, optional): A short text, such as the loss. Defaults to None, the last one.
        """
        self.done += count
        self._start_done += 0 if is_new else count
        self.note = self.note if note is None else note
        if self._is_due_at(self.done):
            self._draw()

    def describe(self) -> str:
        """Return a line such as ``features: 1,024 of 118,287 (0%), about 6 min left``."""
        if self.total is None:
            return ', '.join([f'{self.what}: {self.done:,}', *([self.note] if self.note else [])])
        share = 100 * self.done // max(self.total, 1)
        parts = [f'{self.what}: {self.done:,} of {self.total:,} ({share}%)']
        finished, missing = self.done - self._start_done, self.total - self.done
        seconds = time.monotonic() - self._start
        if finished > 0:
            rest = duration(seconds / finished * missing)
            parts.append(f'about {rest} left' if missing > 0 else f'took {duration(seconds)}')
        parts += [self.note] if self.note else []  # before what a narrow terminal cuts off
        parts += [f'{seconds / finished:.3g} s each'] if finished > 0 else []
        return ', '.join(parts)

    def close(self) -> None:
        """Draw the last state, and remove the bar or end the line."""
        if self._is_shown and self._is_drawn_at_end and self.done != self._drawn:
            self._draw()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        elif self._width:
            print(flush=True)
        self._is_shown, self._width = False, 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _is_due_at(self, done: int) -> bool:
        is_end = self._is_drawn_at_end and self.total is not None and done >= self.total
        return self._is_shown and (is_end or time.monotonic() >= self._next)

    def _draw(self) -> None:
        self._next, self._drawn = time.monotonic() + self._interval, self.done
        text = self.describe()
        if self._bars is not None:
            self._bars.update(self._task, completed=self.done, description=text, refresh=True)
        elif self._in_notebook:  # which shows stderr in red
            print(f'\r{text.ljust(self._width)}', end='', flush=True)
            self._width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)


def track(items: Iterable[T], total: int, what: str, show: Optional[bool] = None) -> Iterator[T]:
    """Iterate over items, and show their progress.

    Args:
        items (iterable): The items.
        total (int): Their number.
        what (str): Name of the task.
        show (bool, optional): See :class:`Progress`. Defaults to None.
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


def duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours, such as ``6 min``."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes / 60:.1f} h'
