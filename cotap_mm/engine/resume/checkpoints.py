"""Write checkpoints with a checksum, and find the one that was written last."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from cotap_mm.compat.safe_pickle import load_safely
from cotap_mm.files.atomic_write import atomic_write, checksum, zip_error

from .checkpoint_records import Entry, read_entries, record_path, write_record

#: Names of the checkpoints that a run saves at its intervals.
TEMPLATES = ('iter_{}.pth', 'epoch_{}.pth')
_POINTER = 'last_checkpoint'  # MMEngine's file with the path of the last checkpoint


@contextmanager
def atomic_checkpoint(path: str | Path) -> Iterator[Path]:
    """Write a checkpoint atomically, with its record ``path`` + ``.json``.

    The record holds the size and checksum of the file, and a number that increases with every
    checkpoint of a folder, since clocks may be wrong and copies may lose modification times.

    Args:
        path (str | Path): The checkpoint.

    Yields:
        Path: Path to write to, see :func:`cotap_mm.files.atomic_write.atomic_write`.
    """
    path = Path(path)
    with atomic_write(path) as partial:
        yield partial
        numbers = [
            entry.written
            for other in path.parent.glob('*.pth.json')
            for entry in read_entries(other.with_suffix(''))
        ]
        entry = Entry(partial.stat().st_size, checksum(partial), 1 + max(numbers, default=0))
        # The record is written before the checkpoint is renamed, so that no checkpoint lacks
        # its record. If it replaces another checkpoint, the record accepts both until then.
        write_record(path, [entry, *read_entries(path)[:1]])


def remove_checkpoint(path: str | Path) -> None:
    """Delete a checkpoint and its record, if they exist."""
    for file in (Path(path), record_path(Path(path))):
        file.unlink(missing_ok=True)


def checkpoint_error(path: str | Path) -> str | None:
    """Describe what is wrong with a checkpoint; None if a training can resume from it.

    A file with a record must match its size and checksum. A file without one, e.g. written by
    MMEngine's own hook, must be a zip archive with valid checksums, as PyTorch writes it. Both
    must contain what MMEngine needs to resume, in types that can be loaded without running code.
    """
    return _inspect(Path(path))[0]


def newest_good_checkpoint(
    folder: str | Path,
    templates: tuple[str, ...] = TEMPLATES,
    of_earlier_runs: Mapping[str, list] | None = None,
) -> Path | None:
    """Find the checkpoint that was written last and that a training can resume from.

    Damaged checkpoints are logged and skipped. Checkpoints are ordered by the numbers in their
    records. Without records, MMEngine's ``last_checkpoint`` names the last one, and checkpoints
    with fewer steps come before it. Clocks and the progress of other runs have no influence.

    Args:
        folder (str | Path): Folder of the checkpoints.
        templates (tuple[str, ...]): File names, with ``{}`` for the step.
        of_earlier_runs (Mapping[str, list], optional): Files of other runs to skip, as returned
            by :func:`stamps`.

    Returns:
        Path, optional: None if there is no valid checkpoint.
    """
    folder, earlier = Path(folder), of_earlier_runs or {}
    pointed = pointed_name(folder)
    paths = [
        path
        for path in numbered_checkpoints(folder, templates)
        if earlier.get(path.name, [])[2:] != _size_and_time(path)
    ]
    # A file without a record is ordered by its step only if no file is known to be the last.
    numbers = (
        []
        if pointed in [path.name for path in paths]
        else [
            (_step(path.name, templates), entry.written)
            for path in paths
            for entry in read_entries(path)[:1]
        ]
    )
    waiting = [(_order(path, pointed, templates, numbers), path) for path in paths]
    while waiting:
        waiting.sort()
        order, path = waiting.pop()
        problem, entry = _inspect(path)
        if problem is not None:
            print_log(
                f'{path} {problem}; it is skipped, and the previous checkpoint is used if there '
                'is one',
                logger='current',
                level=logging.WARNING,
            )
        elif entry is not None and [entry.sha256, entry.written] == earlier.get(path.name, [])[:2]:
            continue
        elif entry is not None and entry.written < order[1]:  # it was about to be replaced
            waiting.append(((order[0], entry.written, *order[2:]), path))
        else:
            return path
    return None


def numbered_checkpoints(folder: str | Path, templates: tuple[str, ...] = TEMPLATES) -> list[Path]:
    """List the files of a folder that have names of checkpoints, the largest step first.

    Args:
        folder (str | Path): Folder, which need not exist.
        templates (tuple[str, ...]): File names, with ``{}`` for the step.
    """
    numbered = [
        (step, path.name, path)
        for path in Path(folder).glob('*')
        for step in [_step(path.name, templates)]
        if step is not None
    ]
    return [path for _, _, path in sorted(numbered, reverse=True)]


def pointed_name(folder: str | Path) -> str | None:
    """Name of the file in ``last_checkpoint``, without its folder, which may have been moved."""
    try:
        with open(Path(folder) / _POINTER, encoding='utf-8', errors='replace') as file:
            return re.split(r'[\\/]', file.read(4096).strip())[-1] or None
    except OSError:
        return None


def stamps(folder: str | Path, templates: tuple[str, ...] = TEMPLATES) -> dict[str, list]:
    """Fingerprints of the checkpoints of a folder, to recognize them later.

    Args:
        folder (str | Path): Folder of the checkpoints.
        templates (tuple[str, ...]): File names, with ``{}`` for the step.

    Returns:
        dict[str, list]: File name -> checksum and number of its record (None without one), size
        in bytes, modification time in nanoseconds.
    """
    stamps_by_name = {}
    for path in numbered_checkpoints(folder, templates):
        first = [[entry.sha256, entry.written] for entry in read_entries(path)[:1]]
        stamps_by_name[path.name] = [*(first or [[None, None]])[0], *_size_and_time(path)]
    return stamps_by_name


def read_lazily(path: str | Path) -> Any:
    """Load a PyTorch archive with memory-mapped tensors.

    Raises:
        Exception: Of any type, if the file is damaged or contains more than plain data.
    """
    try:
        return load_safely(path, mmap=True)
    except (OSError, RuntimeError) as error:
        if 'mmap' not in str(error):
            raise
        return load_safely(path)  # a file system without memory mapping


def missing_parts(path: str | Path) -> str | None:
    """Describe what an undamaged file lacks for a training to resume from it; None if nothing.

    Args:
        path (str | Path): A PyTorch archive.
    """
    try:
        content = read_lazily(path)
    except Exception as error:  # a malicious pickle can raise any error
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        return f'cannot be loaded safely ({type(error).__name__}: {reason})'
    parts = content if isinstance(content, dict) else {}
    for name in ('meta', 'state_dict', 'message_hub'):
        if not isinstance(parts.get(name), dict):
            return f'is not a training checkpoint (it has no {name!r})'
    for name in ('iter', 'epoch'):
        value = parts['meta'].get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return f'is not a training checkpoint (meta[{name!r}] is {value!r:.50})'
    if 'config' in parts['meta']:
        return "contains a config that MMEngine would execute as code (meta['config'])"
    return None


def _step(name: str, templates: tuple[str, ...]) -> int | None:
    for template in templates:
        match = re.fullmatch(re.escape(template).replace(r'\{\}', '([0-9]{1,18})'), name)
        if match:
            return int(match[1])
    return None


def _order(
    path: Path, pointed: str | None, templates: tuple[str, ...], numbers: list[tuple]
) -> tuple:
    """Sort key of a checkpoint; the one that was written last has the largest key."""
    step, last = _step(path.name, templates), _step(pointed or '', templates)
    written = next((entry.written for entry in read_entries(path)), None)
    if written is None:
        written = max((number + 0.5 for other, number in numbers if other < step), default=0)
    is_pointed = path.name == pointed
    # Our hook writes the record before last_checkpoint; MMEngine's own hook writes no record.
    return (is_pointed and not written, written, is_pointed, last is None or step <= last, step)


def _inspect(path: Path) -> tuple[str | None, Entry | None]:
    """Describe what is wrong with a checkpoint; return the record entry that it matches, too."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return 'is not a regular file', None
        known = read_entries(path)
        problem, entry = _compare_with_record(path, known) if known else (zip_error(path), None)
        return problem or missing_parts(path), entry
    except OSError as error:
        return f'cannot be read ({type(error).__name__}: {error})', None


def _compare_with_record(path: Path, known: list[Entry]) -> tuple[str | None, Entry | None]:
    size = path.stat().st_size
    if size not in [entry.bytes for entry in known]:
        return f'has {size} bytes instead of {known[0].bytes}', None
    digest = checksum(path)
    for entry in known:
        if (entry.bytes, entry.sha256) == (size, digest):
            return None, entry
    return 'does not match its checksum', None


def _size_and_time(path: Path) -> list:
    try:
        status = os.stat(path)
    except OSError:
        return [None, None]
    return [status.st_size, status.st_mtime_ns]
