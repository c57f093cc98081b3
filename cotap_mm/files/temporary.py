"""Temporary files: how they are called, and removing those that killed processes left behind."""

from __future__ import annotations

import glob
import json
import os
import re
import socket
import time
from pathlib import Path

from .locks import Lock, is_held

UNFINISHED = 'unfinished-'  # how the names of files begin that are being written
_OWNER = re.compile(rf'{UNFINISHED}(\d+)-(?:@([^-]*)-)?')
_BUILD = re.compile(r'(?P<out>.+)\.(?P<kind>features|rows|failed)(\..*)?$')
_AUTO = re.compile(r'neighbors_\w+_[0-9a-f]{12}\.npz')  # built by a run, which has its own by now
_LOCKS = ('.npz.lock', '.lmdb.lock')  # names of our lock files end so, beside `.lock` itself
_OLD = 7 * 86400.0  # seconds after which nobody continues half a build


def partial_path(path: Path) -> Path:
    """Where a file is written before it gets its name: beside it, with this process's id and host.

    Args:
        path (Path): The file.
    """
    return path.with_name(f'{UNFINISHED}{os.getpid()}-@{_host()}-{path.name}')


def remove_unfinished(path: Path) -> None:
    """Delete what dead processes have written of one file.

    Args:
        path (Path): The file.
    """
    for other in path.parent.glob(f'{UNFINISHED}*-{glob.escape(path.name)}'):
        if _is_dead(other, own_is_dead=False):
            _remove(other)


def remove_leftovers(folder: str | Path) -> list[str]:
    """Delete everything that killed runs have left half-done in a folder.

    These are files that were being written, records of checkpoints that never got their name,
    parts of neighbor files, and lock files. Files of a process that lives, and parts of a
    build that can still be continued, stay.

    Args:
        folder (str | Path): A work folder, before this process writes anything there.

    Returns:
        list[str]: Names of the files that were deleted.
    """
    removed = []
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
        if path.name.startswith(UNFINISHED):
            is_left = _is_dead(path, own_is_dead=True)
        elif path.name.endswith('.pth.json'):
            is_left = not path.with_suffix('').exists() and _holds(path, 'good', 'sum')
        elif path.name == '.lock' or path.name.endswith(_LOCKS):
            if _holds(path, 'host', 'pid', 'purpose'):
                _take_over(path)
            continue
        else:
            is_left = _is_of_dead_build(path)
        if is_left and path.is_file() and _remove(path):
            removed.append(path.name)
    return removed


def _host() -> str:
    return re.sub(r'[^\w.]', '_', socket.gethostname())[:40]


def _is_dead(path: Path, own_is_dead: bool) -> bool:
    """Whether the process that was writing an unfinished file has gone."""
    owner = _OWNER.match(path.name)
    if owner is None:
        return False
    pid, host = int(owner[1]), owner[2]
    if host not in (None, _host()):  # of another machine: only its age tells
        return _age(path) > _OLD
    # In a container that was started again, the number may be ours.
    return own_is_dead if pid == os.getpid() else not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:  # killed, but its parent has not asked for its status
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (OSError, IndexError):
        return True


def _is_of_dead_build(path: Path) -> bool:
    """Whether a file is part of a neighbor file that is complete or that nobody is building."""
    part = _BUILD.match(path.name)
    if part is None or not part['out'].endswith('.npz'):
        return False
    out = path.with_name(part['out'])
    if (
        part['kind'] == 'features'
        and not out.exists()
        and _age(path) < _OLD
        and not _AUTO.fullmatch(part['out'])
    ):
        return False
    return _take_over(out.with_name(f'{out.name}.lock'))


def _holds(path: Path, *keys: str) -> bool:
    """Whether a file is one of ours: a JSON object with these keys, and not somebody else's."""
    try:
        with open(path, encoding='utf-8') as file:
            content = json.loads(file.read(1 << 16))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and all(key in content for key in keys)


def _take_over(path: Path) -> bool:
    """Whether nobody holds a lock; its file is deleted then."""
    lock = Lock(path, 'removing leftovers')
    try:
        if is_held(path) or not lock.acquire():
            return False
    except OSError:
        return False
    lock.release()
    return True


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
