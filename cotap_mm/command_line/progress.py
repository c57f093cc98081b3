"""Progress of a long task as one line of text, on a terminal and in a notebook."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any, Optional, TextIO

_INTERVAL = 0.25  # seconds between two updates of the line


def in_notebook() -> bool:
    """Whether this process runs the cells of a notebook."""
    ipython = sys.modules.get('IPython')
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, 'kernel')


def is_interactive() -> bool:
    """Whether somebody watches the output: a notebook, or a terminal as stderr."""
    return in_notebook() or bool(sys.stderr and sys.stderr.isatty())


class ProgressLine:
    """A line with the steps done, the time per step, and the time left.

    It is written to stderr, in a notebook to stdout, at most four times per second::

        with ProgressLine(1000, 'training') as progress:
            for step in range(1000):
                progress.update(note='loss 3.21')

    Args:
        total (int): Number of steps.
        what (str): What is done.
        done (int): Steps that were done before. Defaults to 0.
        shown (bool, optional): Whether to write anything. Defaults to None, only if somebody
            watches, see :func:`is_interactive`.
    """

    def __init__(self, total: int, what: str, done: int = 0, shown: Optional[bool] = None) -> None:
        self.total, self.what, self.done = total, what, done
        self.shown = is_interactive() if shown is None else shown
        self._first, self._start = done, time.monotonic()
        self._drawn_at, self._width = -_INTERVAL, 0
        self._note = ''

    @property
    def is_due(self) -> bool:
        """Whether the next :meth:`update` draws the line, for notes that take time."""
        return self.shown and (
            self.done + 1 >= self.total or time.monotonic() - self._drawn_at >= _INTERVAL
        )

    def update(self, steps: int = 1, note: Optional[str] = None) -> None:
        """Count steps, and draw the line if it is due.

        Args:
            steps (int): Steps that were done. Defaults to 1.
            note (str, optional): Text at the end of the line. Defaults to None, the last one.
        """
        self.done += steps
        self._note = self._note if note is None else note
        now = time.monotonic()
        if self.shown and (self.done >= self.total or now - self._drawn_at >= _INTERVAL):
            self._drawn_at = now
            self._draw()

    def close(self) -> None:
        """Draw the last state and end the line."""
        if self.shown and self._width:
            self._draw()
            print(file=self._stream, flush=True)
        self.shown = False

    def describe(self) -> str:
        """Return the text of the line."""
        done, spent = self.done - self._first, time.monotonic() - self._start
        parts = [
            f'{self.what}: {self.done}/{self.total} ({100 * self.done // max(self.total, 1)}%)'
        ]
        if done:
            parts.append(f'{spent / done:.3g} s each')
            parts.append(
                f'{_duration((self.total - self.done) * spent / done)} left'
                if self.done < self.total
                else f'took {_duration(spent)}'
            )
        return ', '.join([*parts, *([self._note] if self._note else [])])

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    @property
    def _stream(self) -> TextIO:
        return sys.stdout if in_notebook() else sys.stderr  # a notebook shows stderr in red

    def _draw(self) -> None:
        text = self.describe()[: shutil.get_terminal_size().columns - 1]
        print(f'\r{text.ljust(self._width)}', end='', file=self._stream, flush=True)
        self._width = len(text)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'
