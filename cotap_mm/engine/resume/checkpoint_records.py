"""Record next to a checkpoint: sizes and checksums of the files that are valid under its name."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import NamedTuple

from cotap_mm.files.atomic_write import atomic_write


class Entry(NamedTuple):
    """A file that a record accepts."""

    bytes: int
    sha256: str
    written: int = 0  # grows with each checkpoint of the folder; 0 if unknown


def record_path(path: Path) -> Path:
    """Path of the record of a checkpoint: ``path`` + ``.json``."""
    return path.with_name(f'{path.name}.json')


def write_record(path: Path, entries: list[Entry]) -> None:
    """Write the record of a checkpoint atomically.

    Args:
        path (Path): The checkpoint.
        entries (list[Entry]): Files to accept, the newest first.
    """
    good = [entry._asdict() for entry in entries]
    with atomic_write(record_path(path)) as partial:
        partial.write_text(json.dumps(dict(good=good, sum=_sum(good))) + '\n', encoding='utf-8')


def read_entries(path: Path) -> list[Entry]:
    """Files that the record of a checkpoint accepts; empty if it is missing or damaged."""
    try:
        record = record_path(path)
        if not stat.S_ISREG(record.stat().st_mode) or record.stat().st_size > 1 << 16:
            return []
        content = json.loads(record.read_text(encoding='utf-8'))
        good = content['good']
        if content.get('sum', _sum(good)) != _sum(good):
            return []
        return [_entry(fields) for fields in good]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _sum(good: list) -> str:
    return hashlib.sha256(json.dumps(good, sort_keys=True).encode()).hexdigest()[:16]


def _entry(fields: dict) -> Entry:
    size, digest, written = fields['bytes'], fields['sha256'], fields.get('written', 0)
    if type(size) is not int or type(written) is not int or not isinstance(digest, str):
        raise TypeError('sizes and numbers must be integers, and checksums strings')
    return Entry(size, digest, written)
