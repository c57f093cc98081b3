"""Lock a work folder for one run at a time, and keep earlier runs apart from it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dist import all_gather_object, is_main_process
from mmengine.logging import print_log

from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.files.locks import Lock, Locked, acquire_lock

from .checkpoints import TEMPLATES, numbered_checkpoints, stamps


class _Before(NamedTuple):
    """State of a work folder before a run, and names of the files that the run writes there."""

    folder: Path
    is_new: bool
    names: set[str]
    written: set[str]


#: Value of ``resume`` for a run that was restarted by a launcher, not by its user.
AUTO = 'auto'
_RECORD = 'run.json'
_LOCK = '.lock'
#: Seconds for which a restarted run waits for the lock of a machine that died.
_PATIENCE = 60.0
_held: list[Lock] = []
_before: list[_Before] = []
_LOG_FOLDER = re.compile(r'\d{8}_\d{6}')  # of MMEngine's runner


def claim_folder(config: Config, overwrite: bool = False, force: bool = False) -> None:
    """Lock the work folder for this run until :func:`release_folder` or the process exits.

    Every rank must call this. A new run is rejected if the folder contains checkpoints, unless
    ``overwrite`` is set; existing checkpoints are then never resumed from. A run that
    ``torchrun`` or Slurm has restarted resumes: ``config.resume`` becomes :data:`AUTO`.

    Args:
        config (Config): With ``work_dir``; changed in place.
        overwrite (bool): Whether to start a new run in a folder with checkpoints. Defaults to
            False.
        force (bool): Whether to train even if another process holds the lock. Defaults to False.

    Raises:
        Locked: If another training holds the lock.
        ValueError: If the folder contains checkpoints of another run, or cannot be written to.
    """
    marks = sorted({mark for marks in all_gather_object(_job_marks()) for mark in marks})
    if on_first_rank(lambda: _claim(config, overwrite, force, marks)):
        config.resume = config.get('resume') or AUTO


def release_folder() -> None:
    """Release the locks of :func:`claim_folder`."""
    while _held:
        _held.pop().release()


def note_folder(config: Config) -> None:
    """Record the files in the work folder of a run before it writes anything there."""
    folder, copy = Path(config.work_dir), os.path.basename(config.filename or '')
    _before.clear()
    if int(os.environ.get('RANK') or 0) == 0:
        names = os.listdir(folder) if folder.is_dir() else []
        _before.append(_Before(folder, not os.path.lexists(folder), {*names}, {_RECORD, copy}))


def abandon_folder() -> None:
    """Release the folder of a run that failed to start, and remove the files it wrote there.

    These are its log folder, its copy of the config and its record. Neighbor files stay, since
    the next attempt needs them. If the folder is new and empty, it is removed.
    """
    while _before:
        folder, is_new, names, written = _before.pop()
        # With --force the folder is not locked, and another process may write to it.
        for path in sorted(folder.iterdir()) if _held and folder.is_dir() else ():
            if path.name in names:
                continue
            if _LOG_FOLDER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name in written:
                path.unlink()
        release_folder()
        if is_new:
            try:
                folder.rmdir()
            except OSError:  # it contains more, such as neighbor files
                pass
    release_folder()


@contextmanager
def held_folder(folder: str | Path, purpose: str = 'training', lock: str = _LOCK) -> Iterator[None]:
    """Lock a folder while something other than ``cotap train`` writes to it.

    A new folder is removed at the end if it is still empty.

    Args:
        folder (str | Path): Created with its parents.
        purpose (str): Activity that holds the lock, for error messages of other processes.
            Defaults to ``'training'``.
        lock (str): Name of the lock file. Defaults to that of :func:`claim_folder`.

    Raises:
        Locked: If another process holds the lock.
    """
    folder = Path(folder)
    new = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    held = acquire_lock(folder / lock, purpose, 'wait until it finishes, or set another --work-dir')
    try:
        yield
    finally:
        held.release()
        for path in new:
            try:
                path.rmdir()
            except OSError:  # it is not empty
                break


def is_restart() -> bool:
    """Whether ``torchrun`` or Slurm has restarted this training."""
    return bool(_restarted())


def checkpoint_folder(config: Config) -> Path:
    """Folder of the checkpoints of a run: ``work_dir``, or its name below ``out_dir``."""
    out_dir = _checkpoint_options(config).get('out_dir')
    work_dir = Path(config.work_dir)
    return work_dir if not out_dir or '://' in str(out_dir) else Path(out_dir) / work_dir.name


def checkpoint_names(config: Config) -> tuple[str, ...]:
    """Templates of the file names of a run's checkpoints."""
    own = _checkpoint_options(config).get('filename_tmpl')
    return (own,) if isinstance(own, str) and '{}' in own else TEMPLATES


def earlier_checkpoints(work_dir: str | Path) -> dict[str, list]:
    """Checkpoints that were in a work folder when its run started, see :func:`.stamps`."""
    earlier = _read_record(Path(work_dir)).get('earlier_checkpoints')
    return (
        {name: value for name, value in earlier.items() if isinstance(value, list)}
        if isinstance(earlier, dict)
        else {}
    )


def _claim(config: Config, overwrite: bool, force: bool, marks: list[str]) -> bool:
    """Claim the folder on rank 0; return whether to resume."""
    folder = Path(config.work_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, force)
        if config.get('resume') or _is_started_by(marks, folder):
            return True
        checkpoints, names = checkpoint_folder(config), checkpoint_names(config)
        existing = numbered_checkpoints(checkpoints, names)
        if existing and not overwrite:
            release_folder()
            raise ValueError(
                f'{checkpoints} contains checkpoints of another run ({existing[0].name}). Pass '
                '--resume to continue that run, another --work-dir for a new run, or --overwrite '
                'for a new run that replaces files of the same name'
            )
        _write_record(
            folder,
            dict(
                started=time.strftime('%Y-%m-%d %H:%M:%S'),
                jobs=marks,
                earlier_checkpoints=stamps(checkpoints, names),
            ),
        )
    except OSError as error:
        raise ValueError(
            f'cannot write to the work folder {folder} '
            f'({type(error).__name__}: {error}); set another --work-dir'
        ) from error
    return False


def _lock(folder: Path, force: bool) -> None:
    remedy = (
        'wait until it finishes, set another --work-dir, or pass --force if that process '
        'does not write to this folder'
    )
    deadline = time.monotonic() + (_PATIENCE if is_restart() else 0.0)
    while True:
        try:
            _held.append(acquire_lock(folder / _LOCK, 'training', remedy))
            return
        except Locked as error:
            if force:
                print_log(f'--force: {error}', logger='current', level=logging.WARNING)
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _restarted() -> set[str]:
    """Launchers that have restarted this training."""
    counts = dict(torchrun='TORCHELASTIC_RESTART_COUNT', slurm='SLURM_RESTART_COUNT')
    return {launcher for launcher, name in counts.items() if int(os.environ.get(name) or 0) > 0}


def _job_marks() -> list[str]:
    """Names of the jobs that this process belongs to; a restart does not change them."""
    marks = []
    if os.environ.get('SLURM_JOB_ID'):
        marks.append(f'slurm {os.environ["SLURM_JOB_ID"]}')
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        # Unique to one torchrun, and inherited through a shell.
        folder = os.environ.get('TORCHELASTIC_ERROR_FILE', '').split('attempt_')[0]
        marks.append(f'torchrun {socket.gethostname()} {folder or os.getppid()}')
    return marks


def _is_started_by(marks: list[str], folder: Path) -> bool:
    """Whether this is a restart of the job that started the run in a folder.

    A job whose first attempt was rejected must not resume another run at its second attempt.
    """
    jobs = _read_record(folder).get('jobs')
    restarted = [mark for mark in marks if mark.split()[0] in _restarted()]
    return isinstance(jobs, list) and any(mark in jobs for mark in restarted)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        if is_main_process():
            print_log(
                f'{path} is damaged ({error}); earlier runs in this folder are unknown',
                logger='current',
                level=logging.WARNING,
            )
        return {}
    return content if isinstance(content, dict) else {}


def _write_record(folder: Path, content: dict[str, Any]) -> None:
    with atomic_write(folder / _RECORD) as partial:
        partial.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def _checkpoint_options(config: Config) -> dict:
    return (config.get('default_hooks') or {}).get('checkpoint') or {}
