"""Records of ratios, one JSON object per line, and what became worse since the last one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from cotap_mm.files.atomic_write import atomic_write

_TOLERANCE = 0.1  # a ratio may grow by this share, or by what both spread if that is more
BEGIN, END = '<!-- ratios: begin -->', '<!-- ratios: end -->'


class Value(NamedTuple):
    """A measured ratio.

    Attributes:
        ratio (float): Median of the runs.
        spread (float): Half of what lies between the quartiles of the runs, as a share of it.
        runs (int): Number of runs.
        way (int): Number of the way in which it was measured; only values of the same way are
            compared. Defaults to 1.
    """

    ratio: float
    spread: float
    runs: int
    way: int = 1


def read(path: Path) -> list[dict[str, Any]]:
    """All records, the oldest first.

    Raises:
        ValueError: If a line is not a record.
    """
    records = []
    lines = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record['ratios'] = {key: Value(**each) for key, each in record['ratios'].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path}, line {number}, must be a record of tools/benchmark.py ratios --record, '
                f'got {line[:50]!r} ({type(error).__name__}); repair or delete the line'
            ) from error
        records.append(record)
    return records


def latest(path: Path) -> dict[str, Value]:
    """The last value of each ratio; a record may have only some of them."""
    return {key: value for record in read(path) for key, value in record['ratios'].items()}


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record, whose ``ratios`` are values by name."""
    ratios = {key: value._asdict() for key, value in record['ratios'].items()}
    lines = [path.read_text(encoding='utf-8')] if path.is_file() else []
    with atomic_write(path) as partial:
        partial.write_text(
            ''.join(lines) + json.dumps(dict(record, ratios=ratios)) + '\n', encoding='utf-8'
        )


def compare(
    before: dict[str, Value], now: dict[str, Value]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Compare ratios with earlier ones.

    Args:
        before (dict[str, Value]): The last record.
        now (dict[str, Value]): Measured now.

    Returns:
        tuple[list[tuple[str, ...]], list[str]]: Rows of a table with name, last ratio, ratio,
        limit and verdict; and the names of the ratios that became worse.
    """
    rows, worse = [], []
    for name, value in now.items():
        old = before.get(name)
        if old is None or old.way != value.way:
            last = '-' if old is None else f'{old.ratio:.3f}'
            verdict = 'new' if old is None else 'measured in another way'
            rows.append((name, last, f'{value.ratio:.3f}', '-', verdict))
            continue
        limit = old.ratio * (1 + max(_TOLERANCE, old.spread + value.spread))
        if value.ratio > limit:
            worse.append(name)
        verdict = 'worse' if value.ratio > limit else 'ok'
        rows.append((name, f'{old.ratio:.3f}', f'{value.ratio:.3f}', f'{limit:.3f}', verdict))
    return rows, worse


def fill_page(path: Path, text: str) -> None:
    """Replace what is between the two marks of a page.

    Raises:
        ValueError: If the page lacks a mark.
    """
    page = path.read_text(encoding='utf-8')
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f'{path} must contain {BEGIN} and {END} once each; add them')
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    with atomic_write(path) as partial:
        partial.write_text(f'{before}{BEGIN}\n{text}\n{END}{after}', encoding='utf-8')
