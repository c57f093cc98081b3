"""Name temporary files, and remove those of killed processes."""

from __future__ import annotations

import glob
import json
import os
import re
import socket
import time
from pathlib import Path

from .locks import Lock, is_held

UNFINISHED = 'unfinished-'  # prefix of files that are being written
_OWNER = re.compile(rf'{UNFINISHED}(\d+)-(?:@([^-]*)-)?')
_BUILD = re.compile(r'(?P<out>.+)\.(?P<kind>features|found|ivf|rows|failed)(\..*)?$')
_AUTO = re.compile(r'neighbors_\w+_[0-9a-f]{12}\.np[yz]')  # built by a run for itself
_NEIGHBORS = ('.npy', '.npz')  # suffixes of neighbor files
_LOCKS = ('.npy.lock', '.npz.lock', '.lmdb.lock')  # suffixes of our lock files, besides `.lock`
_OLD = 7 * 86400.0  # seconds after which an unfinished build is no longer continued


def partial_path(path: Path) -> Path:
    """Temporary path for writing a file: in the same folder, with this process's id and host.

    Args:
        path (Path): Final path.
    """
    return path.with_name(f'{UNFINISHED}{os.getpid()}-@{_host()}-{path.name}')


def remove_unfinished(path: Path) -> None:
    """Delete the temporary files of dead processes for one path.

    Args:
        path (Path): Final path.
    """
    for other in path.parent.glob(f'{UNFINISHED}*-{glob.escape(path.name)}'):
        if _is_dead(other, own_is_dead=False):
            _remove(other)


def remove_leftovers(folder: str | Path) -> list[str]:
    """Delete the unfinished files of killed runs in a folder.

    These are temporary files, records of checkpoints that were never completed, parts of
    neighbor files, and lock files. Files of running processes, and parts of a build that can
    still be continued, are kept.

    Args:
        folder (str | Path): Work folder, before this process writes anything there.

    Returns:
        list[str]: Names of the deleted files.
    """
    removed = []
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
        if path.name.startswith(UNFINISHED):
            is_leftover = _is_dead(path, own_is_dead=True)
        elif path.name.endswith('.pth.json'):
            is_leftover = not path.with_suffix('').exists() and _holds(path, 'good', 'sum')
        elif path.name == '.lock' or path.name.endswith(_LOCKS):
            if _holds(path, 'host', 'pid', 'purpose'):
                _take_over(path)
            continue
        else:
            is_leftover = _is_of_dead_build(path)
        if is_leftover and path.is_file() and _remove(path):
            removed.append(path.name)
    return removed


def _host() -> str:
    return re.sub(r'[^\w.]', '_', socket.gethostname())[:40]


def _is_dead(path: Path, own_is_dead: bool) -> bool:
    """Whether the process that was writing a temporary file has exited."""
    owner = _OWNER.match(path.name)
    if owner is None:
        return False
    pid, host = int(owner[1]), owner[2]
    if host not in (None, _host()):  # of another machine: decide by age
        return _age(path) > _OLD
    # In a restarted container, the process id may be ours.
    return own_is_dead if pid == os.getpid() else not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:  # a zombie, killed but not waited for
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (OSError, IndexError):
        return True


def _is_of_dead_build(path: Path) -> bool:
    """Whether a file is a part of a neighbor file that is complete or not being built."""
    part = _BUILD.match(path.name)
    if part is None or not part['out'].endswith(_NEIGHBORS):
        return False
    out = path.with_name(part['out'])
    if (
        part['kind'] in ('features', 'found', 'ivf')
        and not out.exists()
        and _age(path) < _OLD
        and not _AUTO.fullmatch(part['out'])
    ):
        return False
    return _take_over(out.with_name(f'{out.name}.lock'))


def _holds(path: Path, *keys: str) -> bool:
    """Whether a file is one of ours: a JSON object with these keys."""
    try:
        with open(path, encoding='utf-8') as file:
            content = json.loads(file.read(1 << 16))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and all(key in content for key in keys)


def _take_over(path: Path) -> bool:
    """Delete a lock file that no process holds; returns whether it did."""
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
