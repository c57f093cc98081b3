"""Checkpoints with a checksum beside them, and finding the one that was written last."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import HistoryBuffer, print_log

from cotap_mm.files.atomic_write import atomic_write, checksum, zip_error

#: Names of the checkpoints that a run saves at its intervals.
TEMPLATES = ('iter_{}.pth', 'epoch_{}.pth')
_POINTER = 'last_checkpoint'  # MMEngine's file with the path of the last checkpoint


@contextmanager
def atomic_checkpoint(path: str | Path) -> Iterator[Path]:
    """Write a checkpoint and, beside it, its record ``path`` + ``.json``.

    The record holds the size and checksum of the file, and a number that grows from one
    checkpoint of a folder to the next: clocks may be wrong, and copies lose times.

    Args:
        path (str | Path): The checkpoint.

    Yields:
        Path: Where to write; see :func:`cotap_mm.files.atomic_write.atomic_write`.
    """
    path = Path(path)
    with atomic_write(path) as partial:
        yield partial
        numbers = [
            entry.written
            for other in path.parent.glob('*.pth.json')
            for entry in _entries(other.with_suffix(''))
        ]
        entry = _Entry(partial.stat().st_size, checksum(partial), 1 + max(numbers, default=0))
        # Before the checkpoint gets its name, which is never without its record. Where it
        # replaces another one, either is good until then.
        good = [each._asdict() for each in (entry, *_entries(path)[:1])]
        with atomic_write(_record(path)) as record:
            record.write_text(json.dumps(dict(good=good, sum=_sum(good))) + '\n', encoding='utf-8')


def remove_checkpoint(path: str | Path) -> None:
    """Delete a checkpoint and its record, if they are there."""
    for file in (Path(path), _record(Path(path))):
        file.unlink(missing_ok=True)


def checkpoint_error(path: str | Path) -> str | None:
    """What is wrong with a checkpoint; None for one that a training can resume from.

    A file with a record must have its size and checksum. One without, e.g. by MMEngine's
    own hook, must be a zip archive whose own checksums hold, as PyTorch writes them. Either
    must hold, in types that are loaded without running code, what MMEngine resumes from.
    """
    return _inspect(Path(path))[0]


def newest_good_checkpoint(
    folder: str | Path,
    templates: tuple[str, ...] = TEMPLATES,
    of_earlier_runs: Mapping[str, list] | None = None,
) -> Path | None:
    """The checkpoint that was written last, of those that a training can resume from.

    Others are named in the log and skipped. The order is that of the numbers in the records.
    Where there are none, ``last_checkpoint`` of MMEngine names the last one, and those of
    fewer steps come before it. Clocks do not matter, nor how far other runs were.

    Args:
        folder (str | Path): Where the checkpoints are.
        templates (tuple[str, ...]): Their names, ``{}`` for the step.
        of_earlier_runs (Mapping[str, list], optional): Files that are not this run's, as
            :func:`stamps` had them.

    Returns:
        Path, optional: None if there is no good one.
    """
    folder, earlier = Path(folder), of_earlier_runs or {}
    pointed = pointed_name(folder)
    paths = [
        path
        for path in numbered_checkpoints(folder, templates)
        if earlier.get(path.name, [])[2:] != _size_and_time(path)
    ]
    # Only where nothing says which was the last, a file without a record is placed by its step.
    numbers = (
        []
        if pointed in [path.name for path in paths]
        else [
            (_step(path.name, templates), entry.written)
            for path in paths
            for entry in _entries(path)[:1]
        ]
    )
    waiting = [(_order(path, pointed, templates, numbers), path) for path in paths]
    while waiting:
        waiting.sort()
        order, path = waiting.pop()
        problem, entry = _inspect(path)
        if problem is not None:
            print_log(
                f'{path} {problem}; it is skipped, and the checkpoint before it is used if '
                'there is one',
                logger='current',
                level=logging.WARNING,
            )
        elif entry is not None and [entry.sha256, entry.written] == earlier.get(path.name, [])[:2]:
            continue
        elif entry is not None and entry.written < order[1]:  # the one that is being replaced
            waiting.append(((order[0], entry.written, *order[2:]), path))
        else:
            return path
    return None


def numbered_checkpoints(folder: str | Path, templates: tuple[str, ...] = TEMPLATES) -> list[Path]:
    """Files of a folder with the names of checkpoints, the largest step first.

    Args:
        folder (str | Path): It need not exist.
        templates (tuple[str, ...]): As in :func:`newest_good_checkpoint`.
    """
    found = [
        (step, path.name, path)
        for path in Path(folder).glob('*')
        for step in [_step(path.name, templates)]
        if step is not None
    ]
    return [path for _, _, path in sorted(found, reverse=True)]


def pointed_name(folder: str | Path) -> str | None:
    """Name of the file that ``last_checkpoint`` names; folders may have been moved since."""
    try:
        with open(Path(folder) / _POINTER, encoding='utf-8', errors='replace') as file:
            return re.split(r'[\\/]', file.read(4096).strip())[-1] or None
    except OSError:
        return None


def stamps(folder: str | Path, templates: tuple[str, ...] = TEMPLATES) -> dict[str, list]:
    """What tells whether the checkpoints of a folder are still the same files.

    Args:
        folder (str | Path): Where the checkpoints are.
        templates (tuple[str, ...]): As in :func:`newest_good_checkpoint`.

    Returns:
        dict[str, list]: For each name the checksum and number of its record (None without
        one), its size, and its time of change in nanoseconds.
    """
    found = {}
    for path in numbered_checkpoints(folder, templates):
        first = [[entry.sha256, entry.written] for entry in _entries(path)[:1]]
        found[path.name] = [*(first or [[None, None]])[0], *_size_and_time(path)]
    return found


def read_lazily(path: str | Path) -> Any:
    """Content of a PyTorch archive, whose tensors stay on the disk until they are used.

    Raises:
        Exception: Of any type, if it is damaged or holds other things than plain data.
    """
    options = dict(map_location='cpu', weights_only=True)
    try:
        return torch.load(path, mmap=True, **options)
    except (OSError, RuntimeError) as error:
        if 'mmap' not in str(error):
            raise
        return torch.load(path, **options)  # a file system that cannot map files


def missing_parts(path: str | Path) -> str | None:
    """What a whole file lacks for a training to resume from it; None if nothing.

    Args:
        path (str | Path): A PyTorch archive.
    """
    known = getattr(torch.serialization, 'get_safe_globals', list)()
    if HistoryBuffer not in known:  # before torch 2.6; MMEngine unpickles it there
        return None
    try:
        content = read_lazily(path)
    except Exception as error:  # a hostile pickle can fail in any way
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        return f'cannot be loaded safely ({type(error).__name__}: {reason})'
    parts = content if isinstance(content, dict) else {}
    for name in ('meta', 'state_dict', 'message_hub'):
        if not isinstance(parts.get(name), dict):
            return f'is not a checkpoint of a training (it has no {name!r})'
    for name in ('iter', 'epoch'):
        value = parts['meta'].get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return f'is not a checkpoint of a training (meta[{name!r}] is {value!r:.50})'
    if 'config' in parts['meta']:
        return "holds a config that MMEngine would run as code (meta['config'])"
    return None


class _Entry(NamedTuple):
    """A file that a record allows."""

    bytes: int
    sha256: str
    written: int = 0  # grows with each checkpoint of the folder; 0 if unknown


def _step(name: str, templates: tuple[str, ...]) -> int | None:
    for template in templates:
        match = re.fullmatch(re.escape(template).replace(r'\{\}', '([0-9]{1,18})'), name)
        if match:
            return int(match[1])
    return None


def _order(
    path: Path, pointed: str | None, templates: tuple[str, ...], numbers: list[tuple]
) -> tuple:
    """Sorts checkpoints by when they were written, the last one last."""
    step, last = _step(path.name, templates), _step(pointed or '', templates)
    written = next((entry.written for entry in _entries(path)), None)
    if written is None:
        written = max((number + 0.5 for other, number in numbers if other < step), default=0)
    is_pointed = path.name == pointed
    # Our hook writes a record before it changes what is pointed to; without one it was MMEngine's.
    return (is_pointed and not written, written, is_pointed, last is None or step <= last, step)


def _inspect(path: Path) -> tuple[str | None, _Entry | None]:
    """What is wrong with a checkpoint, and the entry of its record that it fits."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return 'is not a file', None
        known = _entries(path)
        problem, entry = _unlike_record(path, known) if known else (zip_error(path), None)
        return problem or missing_parts(path), entry
    except OSError as error:
        return f'cannot be read ({type(error).__name__}: {error})', None


def _unlike_record(path: Path, known: list[_Entry]) -> tuple[str | None, _Entry | None]:
    size = path.stat().st_size
    if size not in [entry.bytes for entry in known]:
        return f'has {size} bytes instead of {known[0].bytes}', None
    digest = checksum(path)
    for entry in known:
        if (entry.bytes, entry.sha256) == (size, digest):
            return None, entry
    return 'does not have its checksum', None


def _size_and_time(path: Path) -> list:
    try:
        found = os.stat(path)
    except OSError:
        return [None, None]
    return [found.st_size, found.st_mtime_ns]


def _record(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def _sum(good: list) -> str:
    return hashlib.sha256(json.dumps(good, sort_keys=True).encode()).hexdigest()[:16]


def _entries(path: Path) -> list[_Entry]:
    """Files that the record allows; empty if the record is missing or damaged."""
    try:
        record = _record(path)
        if not stat.S_ISREG(record.stat().st_mode) or record.stat().st_size > 1 << 16:
            return []
        content = json.loads(record.read_text(encoding='utf-8'))
        good = content['good']
        if content.get('sum', _sum(good)) != _sum(good):
            return []
        return [_entry(each) for each in good]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _entry(each: dict) -> _Entry:
    size, digest, written = each['bytes'], each['sha256'], each.get('written', 0)
    if type(size) is not int or type(written) is not int or not isinstance(digest, str):
        raise TypeError('sizes and numbers must be integers, and checksums text')
    return _Entry(size, digest, written)
