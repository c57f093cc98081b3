"""Print tables on a terminal and format them as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table with borders; the first column is left-aligned, the others right-aligned.

    Args:
        headings (sequence): One text per column.
        rows (iterable): One value per column; values are converted with ``str``.
    """
    table = Table()
    for column, text in enumerate(headings):
        table.add_column(text, justify='right' if column else 'left')
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], align: bool = False
) -> str:
    """Format rows as a Markdown table.

    Args:
        headings (sequence): One text per column.
        rows (iterable): One value per column; values are converted with ``str``.
        align (bool): Pad the cells of a column to the same width, so that the table can also be
            read on a terminal. Defaults to False.

    Returns:
        str: The lines of the table, without a final line break.
    """
    lines = [[str(value) for value in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) if align else 0 for column in zip(*lines)]
    lines.insert(1, ['-' * width if align else '---' for width in widths])
    return '\n'.join(
        '| ' + ' | '.join(text.ljust(width) for text, width in zip(line, widths)) + ' |'
        for line in lines
    )
