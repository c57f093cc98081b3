"""Checkpoints with a checksum beside them, and finding the newest good one."""
import json
import logging
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional

from mmengine.logging import print_log

from cotap_mm.files import UNFINISHED, checksum, torn_archive, whole_file

_STEP = re.compile(r'_(\d+)\.pth$')


@contextmanager
def whole_checkpoint(path: 'str | Path') -> Iterator[Path]:
    """Write a checkpoint and, beside it, ``path`` + ``.json`` with its size and checksum.

    Args:
        path (str | Path): The checkpoint.

    Yields:
        Path: Where to write; see :func:`cotap_mm.files.whole_file`.
    """
    path = Path(path)
    with whole_file(path) as partial:
        yield partial
        entry = dict(bytes=partial.stat().st_size, sha256=checksum(partial))
        # Before the checkpoint gets its name, which is never without its record. Where it
        # replaces another one, either is good until then.
        with whole_file(_record(path)) as record:
            record.write_text(json.dumps(dict(good=[entry, *_entries(path)[:1]])) + '\n',
                              encoding='utf-8')


def remove_checkpoint(path: 'str | Path') -> None:
    """Delete a checkpoint and its record, if they are there."""
    for file in (Path(path), _record(Path(path))):
        if file.exists():
            file.unlink()


def damage(path: 'str | Path') -> Optional[str]:
    """What is wrong with a checkpoint file; None for a good one.

    A file with a record must have its size and checksum. One without, by plain
    MMEngine, must be a zip archive whose own checksums hold, as PyTorch writes them.
    """
    path = Path(path)
    known = _entries(path)
    if not known:
        return torn_archive(path)
    try:
        entry = dict(bytes=path.stat().st_size, sha256=checksum(path))
    except OSError as error:
        return f'cannot be read ({type(error).__name__}: {error})'
    if entry in known:
        return None
    return (f'has {entry["bytes"]} bytes instead of {known[0]["bytes"]}'
            if entry['bytes'] != known[0]['bytes'] else 'does not have its checksum')


def newest_good_checkpoint(folder: 'str | Path') -> Optional[Path]:
    """The checkpoint to go on from; damaged ones are named in the log and passed over.

    Args:
        folder (str | Path): Where ``iter_N.pth`` or ``epoch_N.pth`` are.

    Returns:
        Path, optional: None if there is no good one.
    """
    for path in numbered_checkpoints(folder):
        problem = damage(path)
        if problem is None:
            return path
        print_log(f'{path} {problem}; the one before it is used if there is one',
                  logger='current', level=logging.WARNING)
    return None


def numbered_checkpoints(folder: 'str | Path') -> List[Path]:
    """``*_N.pth`` in a folder, the largest N first."""
    found = []
    for path in Path(folder).glob('*.pth'):
        step = _STEP.search(path.name)
        if step and not path.name.startswith((UNFINISHED, 'best_')):
            found.append((int(step[1]), path.stat().st_mtime, path))
    return [path for _, _, path in sorted(found, reverse=True)]


def _record(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def _entries(path: Path) -> List[dict]:
    """Sizes and checksums that the record allows; empty if there is none, or no whole one."""
    try:
        return list(json.loads(_record(path).read_text(encoding='utf-8'))['good'])
    except (OSError, ValueError, KeyError, TypeError):
        return []
